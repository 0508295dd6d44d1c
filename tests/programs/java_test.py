#!/usr/bin/env python3
"""java on Pagoda: a small program that takes memory natively too."""

import zlib

import program

SOURCE = r"""
import java.lang.reflect.Field;
import java.nio.ByteBuffer;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import java.util.zip.*;
import sun.misc.Unsafe;

public class Main {
    static Unsafe unsafe;

    static byte[] pattern(int seed, int length) {
        byte[] bytes = new byte[length];
        for (int i = 0; i < length; i++) bytes[i] = (byte) (i * 31 + seed * (i >> 8));
        return bytes;
    }

    // malloc, realloc and free by way of Unsafe; each block is checked when it is given back.
    static long nativeBlocks(int seed) {
        Random random = new Random(seed);
        TreeMap<Long, Integer> live = new TreeMap<>();
        List<Long> order = new ArrayList<>();
        long sum = 0;
        for (int i = 0; i < 60_000; i++) {
            int size = 8 + random.nextInt(i % 500 == 0 ? 400_000 : 600);
            long block = unsafe.allocateMemory(size);
            unsafe.setMemory(block, size, (byte) size);
            if (i % 5 == 0) {
                long grown = unsafe.reallocateMemory(block, size * 2L);
                unsafe.setMemory(grown + size, size, (byte) size);
                block = grown;
                size *= 2;
                if (unsafe.getByte(block + size - 1) != (byte) (size / 2))
                    throw new Error("realloc");
                unsafe.setMemory(block, size, (byte) size);
            }
            if (live.put(block, size) != null) throw new Error("block handed out twice");
            order.add(block);
            if (order.size() > 20_000) {
                int at = random.nextInt(order.size());
                long gone = order.get(at);
                order.set(at, order.get(order.size() - 1));
                order.remove(order.size() - 1);
                sum += release(gone, live.remove(gone));
            }
        }
        for (Map.Entry<Long, Integer> entry : live.entrySet())
            sum += release(entry.getKey(), entry.getValue());
        return sum;
    }

    static long release(long block, int size) {
        for (int i = 0; i < size; i += 1 + size / 16)
            if (unsafe.getByte(block + i) != (byte) size) throw new Error("content");
        unsafe.freeMemory(block);
        return size;
    }

    static long directBuffers() {
        CRC32 crc = new CRC32();
        for (int round = 0; round < 50; round++) {
            List<ByteBuffer> buffers = new ArrayList<>();
            for (int i = 1; i <= 20; i++) buffers.add(ByteBuffer.allocateDirect(i * 10_000));
            for (ByteBuffer buffer : buffers) {
                while (buffer.hasRemaining()) if (buffer.get() != 0) throw new Error("not zero");
                buffer.clear();
                buffer.put(pattern(round, buffer.capacity())).flip();
            }
            for (ByteBuffer buffer : buffers) crc.update(buffer);
        }
        return crc.getValue();
    }

    static int deflated() throws Exception {
        byte[] data = pattern(3, 3_000_000);
        Deflater deflater = new Deflater(6);
        deflater.setInput(data);
        deflater.finish();
        byte[] packed = new byte[data.length + 1000];
        int length = deflater.deflate(packed);
        deflater.end();
        Inflater inflater = new Inflater();
        inflater.setInput(packed, 0, length);
        byte[] back = new byte[data.length];
        if (inflater.inflate(back) != data.length || !Arrays.equals(data, back))
            throw new Error("zlib");
        inflater.end();
        CRC32 crc = new CRC32();
        crc.update(back);
        System.out.println(crc.getValue());
        return length;
    }

    public static void main(String[] args) throws Exception {
        Field field = Unsafe.class.getDeclaredField("theUnsafe");
        field.setAccessible(true);
        unsafe = (Unsafe) field.get(null);
        ExecutorService team = Executors.newFixedThreadPool(4);
        List<Future<Long>> sums = new ArrayList<>();
        for (int seed = 0; seed < 4; seed++) {
            int mine = seed;
            sums.add(team.submit(() -> nativeBlocks(mine)));
        }
        for (Future<Long> sum : sums) System.out.println(sum.get());
        team.shutdown();
        System.out.println(directBuffers());
        deflated();
        Map<String, Long> counts = IntStream.range(0, 300_000).boxed().parallel().collect(
            Collectors.groupingBy(i -> "k" + i % 1000, TreeMap::new, Collectors.counting()));
        if (counts.values().stream().anyMatch(n -> n != 300)) throw new Error("counts");
        System.out.println(counts.size());
    }
}
"""


def pattern(seed, length):
    return bytes((i * 31 + seed * (i >> 8)) & 255 for i in range(length))


class Java(program.ProgramTest):
    needs = ("/usr/bin/javac", "/usr/bin/java")

    def test_native_memory(self):
        (self.dir / "Main.java").write_text(SOURCE)
        self.run_program("/usr/bin/javac", "-nowarn", "-XDignore.symbol.file", "Main.java")
        self.assert_served(2_000, program="javac")
        result = self.run_twice("/usr/bin/java", "-Xmx256m", "-cp", self.dir, "Main")
        lines = [int(line) for line in result.text.split()]
        self.assertEqual(len(lines), 7)
        self.assertTrue(all(line > 60_000 * 300 for line in lines[:4]), lines)
        crc = 0
        longest = [pattern(seed, 200_000) for seed in range(50)]
        for block in longest:
            for i in range(1, 21):
                crc = zlib.crc32(block[:i * 10_000], crc)
        self.assertEqual(lines[4:], [crc, zlib.crc32(pattern(3, 3_000_000)), 1_000])
        self.assert_served(40_000, pid=result.pid)


if __name__ == "__main__":
    program.main()
