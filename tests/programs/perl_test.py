#!/usr/bin/env python3
"""perl on Pagoda: strings, hashes, regular expressions, interpreter threads and fork."""

import program

SCRIPT = r"""
use strict; use warnings; use threads;
use Digest::SHA qw(sha256_hex); use Data::Dumper; use List::Util qw(sum shuffle);
$Data::Dumper::Sortkeys = 1; $Data::Dumper::Indent = 1;

my %words;
for my $i (1 .. 100_000) {
    $words{"key" . ($i * 7919 % 100_001)} = { n => $i, list => [1 .. $i % 7] };
}
delete $words{"key$_"} for grep { $_ % 2 } 1 .. 100_000;
die "keys" unless keys(%words) == 50_000;
print sha256_hex(Dumper({ map { $_ => $words{$_} } grep { /00$/ } keys %words })), "\n";
undef %words;

my $text = join ",", map { $_ x ($_ % 13) } 1 .. 40_000;
(my $swapped = $text) =~ s/(\d)(\d)/$2$1/g;
my $count = () = $swapped =~ /(?:9|1)+/g;
print length($text), " $count ", sha256_hex($swapped), "\n";
my $grown = ""; $grown .= chr(65 + $_ % 26) x 11 for 1 .. 200_000;
die "length" unless length($grown) == 2_200_000;
die "grown" unless substr($grown, -11) eq chr(65 + 200_000 % 26) x 11;
print sha256_hex($grown), "\n";

my @sorted = sort { $a->[1] cmp $b->[1] }
    map { [$_, sprintf "%08x", $_ * 2654435761 % 2**32] } 1 .. 60_000;
die "sorted" unless sum(map { $_->[0] } @sorted) == 60_000 * 60_001 / 2;
print join(" ", map { $_->[0] } @sorted[0 .. 9]), "\n";

my @team = map { my $n = $_; threads->create(sub { my %h = map { $_ => "v$_" x $n } 1 .. 10_000;
                                                   length join "", values %h }) } 1 .. 4;
print join(" ", map { $_->join } @team), "\n";

for my $n (1 .. 5) {
    my $pid = open(my $child, "-|") // die "fork";
    if (!$pid) { print sum(map { length("x$_") } 1 .. 1000 * $n); exit 0 }
    print scalar(<$child>), "\n"; close $child or die "child";
}
"""


class Perl(program.ProgramTest):
    needs = ("/usr/bin/perl",)

    def test_script(self):
        result = self.run_twice("/usr/bin/perl", "-e", SCRIPT, env={"PERL_HASH_SEED": "0"})
        lines = result.text.splitlines()
        lengths = [sum(len(str(i)) + 1 for i in range(1, 1000 * n + 1)) for n in range(1, 6)]
        self.assertEqual([int(line) for line in lines[-5:]], lengths)
        values = sum(len(str(i)) + 1 for i in range(1, 10_001))
        self.assertEqual(lines[-6].split(), [str(values * n) for n in range(1, 5)])
        self.assert_served(100_000, pid=result.pid)


if __name__ == "__main__":
    program.main()
