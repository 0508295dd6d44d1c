"""Runs a program in a guest: a small Linux under QEMU, with emulated PCI devices bound to vfio-pci.

    result = guest.run("build/release/tests/vm/edu", "type1", devices=["edu"])

The program, the files it is given and the libraries they need lie in the guest where they lie here.
The test's devices are at 0000:00:04.0, 0000:00:05.0 and so on.
"""

import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import time

import archive

HERE = pathlib.Path(__file__).resolve().parent
QEMU = "qemu-system-x86_64"
# no_timer_check: a busy host is late with the guest's ticks. panic=-1: a panic ends QEMU.
COMMAND_LINE = "console=ttyS0 loglevel=5 panic=-1 no_timer_check mitigations=off random.trust_cpu=on"
IOMMUS = {
    "intel": (["-device", "intel-iommu,intremap=on,caching-mode=on"], "intel_iommu=on"),
    # Its interrupts are not isolated, and VFIO wants to be told that this is known.
    "virtio": (["-device", "virtio-iommu-pci,addr=1"],
               "vfio_iommu_type1.allow_unsafe_interrupts=1 iommufd.allow_unsafe_interrupts=1"),
    "none": ([], ""),
}
SWAP_SLOT, FIRST_SLOT = 2, 4
USER = 1000
BOOT_SECONDS = 120


class Unavailable(Exception):
    """There is no guest on this machine; the text says why."""


@dataclasses.dataclass
class Options:
    iommu: str = "intel"  # intel, also with properties: "intel,aw-bits=48"; virtio; none
    noiommu: bool = False  # no IOMMU, and VFIO told to do without
    devices: tuple = ("edu",)  # as QEMU's -device; an nvme without a drive gets one of 64 MiB
    memory: str = "1G"
    cpus: int = 2  # a multiple of the nodes
    numa: int = 1  # nodes
    hugepages: int = 64  # of 2 MiB
    swap: str = ""  # the size of a drive to swap to
    files: tuple = ()  # "FILE" or "FILE:PLACE"
    env: dict = dataclasses.field(default_factory=dict)  # what LD_PRELOAD names comes along
    append: str = ""  # to the kernel's command line
    user: str = ""  # a memlock limit: run as a user with that limit who owns VFIO's nodes
    timeout: float = 60  # seconds from the program's start
    log: str = ""  # a folder that keeps what QEMU and the guest wrote
    live: object = None  # called with the program's output as it comes


@dataclasses.dataclass
class Result:
    returncode: int | None  # None when the program did not end by itself
    output: str
    dmesg: str  # warnings and errors of the guest's kernel
    qemu: str  # what QEMU itself said, "EDU: clamping ..." for one
    fault: str  # a sentence, when there is no return code
    seconds: float

    def __str__(self):
        return (f"status {self.returncode} {self.fault}\n--- output\n{self.output[-4000:]}"
                f"\n--- dmesg\n{self.dmesg[-3000:]}\n--- qemu\n{self.qemu[-1000:]}")


def run(program, *arguments, **options):
    """Boots a guest, runs the program in it, and says how it ended. Raises Unavailable."""
    options = Options(**options)
    kernel = prepare()
    path = shutil.which(program)
    if not path:
        raise FileNotFoundError(f"there is no program {program}")
    command = [os.path.abspath(path), *map(str, arguments)]
    with tempfile.TemporaryDirectory(prefix="pagoda-vm-") as folder:
        folder = pathlib.Path(folder)
        write_archive(folder / "initrd", kernel, command, options)
        machine = qemu_command(folder, kernel, options)
        # A guest that does not come so far as to start the program is tried once more.
        for _ in range(2):
            result, started = boot(machine, folder, options)
            if started:
                break
        if options.log:
            pathlib.Path(options.log).mkdir(parents=True, exist_ok=True)
            for name in ("console", "output", "control", "qemu"):
                shutil.copy(folder / name, options.log)
    if not started and not result.dmesg:
        check_qemu(options)
    return result


def prepare():
    """The folder of the guest's kernel; made at the first call on a machine."""
    if not shutil.which(QEMU):
        raise Unavailable(f"{QEMU} is not installed (./dev setup does it)")
    done = subprocess.run([HERE / "kernel.sh"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode == 77:
        raise Unavailable(done.stderr.strip().splitlines()[-1])
    if done.returncode != 0:
        raise RuntimeError(f"kernel.sh: {done.stderr}")
    return pathlib.Path(done.stdout.strip())


def write_archive(path, kernel, command, options):
    with open(path, "wb") as file:
        fill_archive(archive.Archive(file), kernel, command, options)


def fill_archive(guest, kernel, command, options):
    guest.write("/init", (HERE / "init").read_bytes(), 0o755)
    guest.write("/vm/busybox", (kernel / "busybox").read_bytes(), 0o755)
    for module in sorted((kernel / "modules").iterdir()):
        guest.write(f"/vm/modules/{module.name}", module.read_bytes())
    settings = {
        "hugepages": options.hugepages,
        "noiommu": int(options.noiommu),
        "swap": f"0000:00:{SWAP_SLOT:02x}.0" if options.swap else "",
        "user": "user" if options.user else "",
        "memlock": size(options.user) >> 10 if options.user else 0,
    }
    lines = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items())
    guest.write("/vm/settings", lines.encode())
    env = [f"{name}={value}" for name, value in options.env.items()]
    guest.write("/vm/command", f"exec {shlex.join(['/vm/bin/env', *env, *command])}\n".encode(), 0o755)
    guest.write("/etc/passwd", f"root::0:0::/tmp:/bin/sh\nuser::{USER}:{USER}::/tmp:/bin/sh\n".encode())
    guest.write("/etc/group", f"root::0:\nuser::{USER}:\n".encode())
    if os.path.exists("/etc/ld.so.cache"):
        guest.add("/etc/ld.so.cache")
    guest.add(command[0])
    for library in options.env.get("LD_PRELOAD", "").split():
        guest.add(library)
    for file in options.files:
        guest.add(*file.split(":", 1))
    guest.close()


def size(text):
    """Bytes of "64K", "1G"."""
    number, unit = re.fullmatch(r"(\d+)([KMG]?)", text).groups()
    return int(number) << {"": 0, "K": 10, "M": 20, "G": 30}[unit]


def qemu_command(folder, kernel, options):
    kind, _, properties = ("none" if options.noiommu else options.iommu).partition(",")
    iommu, append = IOMMUS[kind]
    if properties:
        iommu = [*iommu[:-1], f"{iommu[-1]},{properties}"]
    command = [*machine(options), *iommu,
               "-kernel", kernel / "vmlinuz", "-initrd", folder / "initrd",
               "-append", f"{COMMAND_LINE} {append} {options.append}"]
    for name in ("console", "output", "control"):
        command += ["-chardev", f"file,id={name},path={folder / name}", "-serial", f"chardev:{name}"]
    if options.numa > 1:
        memory, cpus = size(options.memory) // options.numa, options.cpus // options.numa
        for node in range(options.numa):
            command += ["-object", f"memory-backend-ram,id=m{node},size={memory}", "-numa",
                        f"node,nodeid={node},memdev=m{node},cpus={node * cpus}-{node * cpus + cpus - 1}"]
    if options.swap:
        command += nvme(folder, "nvme", "swap", options.swap, SWAP_SLOT)
    slot = FIRST_SLOT
    for number, device in enumerate(options.devices):
        place = None if "bus=" in device or "addr=" in device else slot
        slot += place is not None
        if device.split(",")[0] == "nvme" and "drive=" not in device:
            command += nvme(folder, device, f"drive{number}", "64M", place)
        else:
            command += ["-device", device + (f",addr={place:#x}" if place else "")]
    # Not to outlive this process, however that ends.
    return ["setpriv", "--pdeathsig", "KILL", *map(str, command)]


def machine(options):
    # Never KVM: a host that is a guest itself may offer it and not be able to do it.
    sockets = f",sockets={options.numa}" if options.numa > 1 else ""
    return [QEMU, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
            "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-smp", f"{options.cpus}{sockets}", "-m", options.memory]


def nvme(folder, device, name, capacity, slot):
    image = folder / f"{name}.image"
    with open(image, "wb") as file:
        file.truncate(size(capacity))
    return ["-drive", f"file={image},if=none,format=raw,id={name},cache=unsafe",
            "-device", f"{device},drive={name},serial={name}" + (f",addr={slot:#x}" if slot else "")]


def boot(command, folder, options):
    """(Result, has the program been started)"""
    for name in ("console", "output", "control", "qemu"):
        (folder / name).write_bytes(b"")
    began = time.monotonic()
    limit, started, late = began + BOOT_SECONDS, False, False
    with open(folder / "qemu", "wb") as said, open(folder / "output", "rb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            while process.poll() is None and not late:
                time.sleep(0.05)
                if not started and "start" in (folder / "control").read_text():
                    started, limit = True, time.monotonic() + options.timeout
                if options.live and (piece := output.read()):
                    options.live(piece)
                late = time.monotonic() > limit
        finally:
            process.kill()
            process.wait()
        if options.live:
            options.live(output.read())
    texts = {name: (folder / name).read_text(errors="replace")
             for name in ("console", "output", "control", "qemu")}
    started = "start" in texts["control"]
    status = re.search(r"^status (\d+)\n", texts["control"], re.M)
    if status:
        fault = ""
    elif late and started:
        fault = f"the program did not end within {options.timeout:g} s, and the guest was ended"
    elif late:
        fault = f"the guest did not start within {BOOT_SECONDS} s"
    else:
        fault = f"the guest ended without a result; QEMU's status was {process.returncode}"
    return Result(int(status[1]) if status else None, texts["output"],
                  texts["console"].replace("\r", ""), texts["qemu"], fault,
                  time.monotonic() - began), started


def check_qemu(options):
    """Where the guest said nothing at all: is it that QEMU cannot even make an empty machine here?"""
    command = [*machine(options), "-S", "-monitor", "stdio"]
    done = subprocess.run(command, input="quit\n", capture_output=True, text=True, timeout=BOOT_SECONDS)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"its status is {done.returncode}"]
        raise Unavailable(f"QEMU does not run here: {said[-1]}")
