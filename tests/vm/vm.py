"""The command behind ./dev vm and the tests of label vm: runs a program in a guest."""

import argparse
import sys

import guest

NO_RESULT, TIMED_OUT, SKIPPED = 125, 124, 77


def pair(text):
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, value


def parse(words):
    parser = argparse.ArgumentParser(prog="vm", usage="vm [OPTION]... -- PROGRAM [ARGUMENT]...")
    add = parser.add_argument
    add("--iommu", default="intel")
    add("--noiommu", action="store_true")
    add("--device", action="append", dest="devices")
    add("--mem", default="1G", dest="memory")
    add("--cpus", type=int, default=2)
    add("--numa", type=int, default=1)
    add("--hugepages", type=int, default=64)
    add("--swap", default="")
    add("--file", action="append", default=[], dest="files")
    add("--env", action="append", default=[], type=pair)
    add("--append", default="")
    add("--user", default="")
    add("--timeout", type=float, default=60)
    add("--log", default="")
    add("-v", action="store_true", dest="verbose")
    add("program")
    add("arguments", nargs="*")
    options = vars(parser.parse_args(words))
    if options["devices"] is None:
        del options["devices"]
    options["env"] = dict(options["env"])
    return options


def show(piece):
    sys.stdout.buffer.write(piece)
    sys.stdout.flush()


def main():
    options = parse(sys.argv[1:])
    program, arguments = options.pop("program"), options.pop("arguments")
    verbose = options.pop("verbose")
    try:
        result = guest.run(program, *arguments, live=show, **options)
    except guest.Unavailable as reason:
        print(f"vm: {reason}", file=sys.stderr)
        return SKIPPED
    except FileNotFoundError as error:
        print(f"vm: {error}", file=sys.stderr)
        return NO_RESULT
    if verbose or (result.fault and "did not end" not in result.fault):
        print(result.dmesg, end="", file=sys.stderr)
    if result.qemu:
        print(result.qemu, end="", file=sys.stderr)
    if verbose:
        print(f"vm: {result.seconds:.1f} s", file=sys.stderr)
    if result.fault:
        print(f"vm: {result.fault}", file=sys.stderr)
        return TIMED_OUT if "did not end" in result.fault else NO_RESULT
    return result.returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
