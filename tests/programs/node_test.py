#!/usr/bin/env python3
"""node on Pagoda. V8's heap is its own; the rest of the program, and its buffers, is malloc's."""

import hashlib

import program

SCRIPT = r"""
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { execFileSync } = require('child_process');
const crypto = require('crypto'), zlib = require('zlib'), assert = require('assert');

function buffers(seed) {
    const hash = crypto.createHash('sha256');
    const kept = [];
    for (let i = 0; i < 6000; i++) {
        const buffer = Buffer.allocUnsafeSlow(1 + (i * 7919 + seed) % 9000).fill(i & 255);
        assert(Buffer.alloc(5000 + i % 100).every(byte => byte === 0));
        kept[(i * 31) % 500] = buffer;
        if (i % 10 === 0) hash.update(buffer);
    }
    for (const buffer of kept) if (buffer) {
        assert(buffer.every(byte => byte === buffer[0]));
        hash.update(buffer);
    }
    return hash.digest('hex');
}

if (!isMainThread) {
    parentPort.postMessage(buffers(workerData));
} else {
    const quality = zlib.constants.BROTLI_PARAM_QUALITY;
    const data = Buffer.from(Array.from({ length: 300000 }, (_, i) => 'n' + i).join());
    for (const [pack, unpack] of [[zlib.gzipSync, zlib.gunzipSync],
                                  [zlib.brotliCompressSync, zlib.brotliDecompressSync]])
        assert(unpack(pack(data, { params: { [quality]: 4 } })).equals(data));
    console.log(crypto.createHash('sha256').update(data).digest('hex'));
    console.log(JSON.parse(JSON.stringify(Array.from({ length: 50000 }, (_, i) => ({ i }))))
        .reduce((sum, { i }) => sum + i, 0));
    console.log(execFileSync(process.execPath, ['-p', '6*7']).toString().trim());
    console.log(buffers(0));
    Promise.all([0, 0, 5].map(workerData => new Promise((done, failed) =>
        new Worker(__filename, { workerData }).on('message', done).on('error', failed))))
        .then(all => { assert(all[0] === all[1]); console.log(all.join('\n')); });
}
"""


class Node(program.ProgramTest):
    needs = ("/usr/bin/node",)

    def test_script(self):
        (self.dir / "script.js").write_text(SCRIPT)
        result = self.run_twice("/usr/bin/node", "script.js")
        lines = result.text.split()
        data = ",".join(f"n{i}" for i in range(300_000)).encode()
        self.assertEqual(lines[:3], [hashlib.sha256(data).hexdigest(),
                                     str(49_999 * 50_000 // 2), "42"])
        self.assertEqual(lines[3], lines[4])
        self.assertEqual(len(lines), 7)
        self.assert_served(8_000, pid=result.pid)
        self.state_share(pid=result.pid)


if __name__ == "__main__":
    program.main()
