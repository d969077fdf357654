"""Which memory and room a process finds for itself, read from files as machines and containers have them."""

from pathlib import Path

import pytest

from consumer.limits import Memory, Room, is_memory, memory, room

MIB = 1024**2
MACHINE = 16_384 * MIB
MEMINFO = f"MemTotal:       {MACHINE // 1024} kB\nMemFree:          123456 kB\n"
MACHINE_MEMORY = Memory(bytes=MACHINE, is_of_cgroup=False)
V2 = "29 23 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n"
V1 = "36 31 0:33 {root} /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n"
UNLIMITED_V1 = 9_223_372_036_854_771_712


def machine(folder: Path, *, cgroup: str, mounts: str, **files: int | str) -> Path:
    """A root folder with /proc as captured, and other files by their paths, written with __ for slashes."""
    texts = {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts}
    texts |= {f"sys/fs/cgroup/{path}": f"{value}\n" for path, value in files.items()}
    for path, text in texts.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def limit(size_bytes: int) -> Memory:
    return Memory(bytes=size_bytes, is_of_cgroup=True)


def test_a_container_with_its_own_cgroup_namespace(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="0::/\n", mounts=V2, **{"memory.max": 512 * MIB})
    assert memory(root) == limit(512 * MIB)


@pytest.mark.parametrize(
    ("own", "above", "least"),
    [
        (512 * MIB, "max", 512 * MIB),
        (512 * MIB, 256 * MIB, 256 * MIB),
        ("max", 256 * MIB, 256 * MIB),
        (256 * MIB, 512 * MIB, 256 * MIB),
    ],
)
def test_a_service_of_the_machine_is_held_by_each_cgroup_above_it(
    tmp_path: Path, own: int | str, above: int | str, least: int
) -> None:
    root = machine(
        tmp_path,
        cgroup="0::/lotus.slice/lotus-lake.service\n",
        mounts=V2,
        **{"lotus.slice/memory.max": above, "lotus.slice/lotus-lake.service/memory.max": own},
    )
    assert memory(root) == limit(least)


def test_no_limit_or_one_above_the_machine_is_the_machine(tmp_path: Path) -> None:
    for number, value in enumerate(("max", 2 * MACHINE, MACHINE)):
        root = machine(tmp_path / str(number), cgroup="0::/\n", mounts=V2, **{"memory.max": value})
        assert memory(root) == MACHINE_MEMORY


def test_version_1_in_a_container_whose_mount_begins_at_its_own_cgroup(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        cgroup="5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n",
        mounts=V1.format(root="/docker/abc"),
        **{"memory/memory.limit_in_bytes": 512 * MIB, "memory/docker/abc/memory.limit_in_bytes": 1},
    )
    assert memory(root) == limit(512 * MIB)


def test_version_1_on_the_machine(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": UNLIMITED_V1,
        "memory/lotus/memory.limit_in_bytes": 512 * MIB,
        "memory/lotus/lake/memory.limit_in_bytes": UNLIMITED_V1,
    }
    mounts = V1.format(root="/")
    root = machine(tmp_path / "a", cgroup="4:memory:/lotus/lake\n", mounts=mounts, **files)
    assert memory(root) == limit(512 * MIB)
    root = machine(tmp_path / "b", cgroup="4:memory:/other\n", mounts=mounts, **files)
    assert memory(root) == MACHINE_MEMORY


def test_both_versions_at_once_where_the_first_has_the_memory(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        cgroup="9:name=systemd:/\n4:memory:/process_api/96b1\n1:cpu:/\n0::/\n",
        mounts=V1.format(root="/")
        + "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
        + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
        **{
            "memory/process_api/96b1/memory.limit_in_bytes": 384 * MIB,
            "systemd/memory.limit_in_bytes": 1,
        },
    )
    assert memory(root) == limit(384 * MIB)


def test_a_cgroup_outside_of_what_the_container_sees(tmp_path: Path) -> None:
    files = {"memory.max": 512 * MIB}
    root = machine(tmp_path, cgroup="0::/../../kubepods/pod1\n", mounts=V2, **files)
    assert memory(root) == limit(512 * MIB)


def test_where_nothing_tells_there_is_no_limit(tmp_path: Path) -> None:
    assert memory(tmp_path) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("nonsense\n- -\n")
    assert memory(tmp_path) is None
    assert not is_memory(Path("/spool"), tmp_path)


MOUNTS = (
    "27 1 254:0 / / rw - ext4 /dev/vda rw\n"
    "29 27 0:25 / /dev/shm rw - tmpfs tmpfs rw,size=24683656k\n"
    "30 27 0:26 / /var/spool/a\\040b rw - tmpfs tmpfs rw\n"
    "31 27 0:27 / /mnt/hidden rw - tmpfs tmpfs rw\n"
    "32 27 254:1 / /mnt/hidden rw - xfs /dev/vdb rw\n"
    "33 32 0:28 / /mnt/hidden/deep rw - ramfs none rw\n"
)


@pytest.mark.parametrize(
    ("folder", "takes_memory"),
    [
        ("/var/spool/lotus-lake", False),
        ("/dev/shm", True),
        ("/dev/shm/spool", True),
        ("/dev/shmem", False),
        ("/var/spool/a b/c", True),
        ("/mnt/hidden/spool", False),
        ("/mnt/hidden/deep/spool", True),
    ],
)
def test_which_folders_take_memory(tmp_path: Path, folder: str, *, takes_memory: bool) -> None:
    root = machine(tmp_path, cgroup="", mounts=MOUNTS)
    assert is_memory(Path(folder), root) is takes_memory


def test_the_room_of_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    there, not_yet = room(tmp_path), room(tmp_path / "not" / "yet")
    assert there is not None
    assert not_yet is not None
    assert there.free_bytes > 0
    assert abs(not_yet.free_bytes - there.free_bytes) < there.free_bytes
    assert isinstance(not_yet, Room)
