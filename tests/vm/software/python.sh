# Threads, processes, sockets, locks, shared memory and a database in one Python program.
cat >/data/program.py <<'PYTHON'
import asyncio, ctypes, fcntl, hashlib, http.server, mmap, multiprocessing, os, select, sqlite3, struct, subprocess, sys
import tempfile, threading, urllib.request
from multiprocessing import shared_memory

def serve_and_fetch():
    os.makedirs("/data/www")
    body = bytes(range(256)) * 4096
    open("/data/www/file", "wb").write(body)
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args): super().__init__(*args, directory="/data/www")
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for _ in range(20):
        assert urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/file").read() == body
    server.shutdown()

async def asynchronous():
    path = "/data/socket"
    async def echo(reader, writer):
        writer.write(await reader.readline()); await writer.drain(); writer.close()
    server = await asyncio.start_unix_server(echo, path)
    async def ask(n):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"%d\n" % n); answer = await reader.readline(); writer.close()
        return int(answer)
    assert await asyncio.gather(*(ask(n) for n in range(100))) == list(range(100))
    child = await asyncio.create_subprocess_exec("sh", "-c", "cat; exit 7", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert (await child.communicate(b"x" * 200000))[0] == b"x" * 200000 and child.returncode == 7
    server.close()

def square(n): return n * n

def processes():
    with multiprocessing.Pool(3) as pool:
        assert pool.map(square, range(200)) == [n * n for n in range(200)]
    block = shared_memory.SharedMemory(create=True, size=1 << 20)
    def fill(name):
        other = shared_memory.SharedMemory(name); other.buf[:5] = b"hello"; other.close()
    child = multiprocessing.Process(target=fill, args=(block.name,)); child.start(); child.join()
    assert bytes(block.buf[:5]) == b"hello"
    block.close(); block.unlink()
    for _ in range(20):
        assert subprocess.run(["cat", "/proc/self/comm"], capture_output=True, check=True).stdout == b"cat\n"

def locks():
    for lock, name in ((fcntl.flock, "flock"), (fcntl.lockf, "lockf")):
        file = open("/data/locked", "w"); lock(file, fcntl.LOCK_EX)
        program = f"import fcntl; fcntl.{name}(open('/data/locked', 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert "BlockingIOError" in other.stderr, other
        file.close()

def mapped():
    with open("/data/mapped", "w+b") as file:
        file.truncate(1 << 20)
        first, second = mmap.mmap(file.fileno(), 0), mmap.mmap(file.fileno(), 0)
        first[123:126] = b"abc"
        assert second[123:126] == b"abc"
        pid = os.fork()
        if pid == 0:
            second[4096:4099] = b"def"; os._exit(0)
        os.waitpid(pid, 0)
        assert first[4096:4099] == b"def"
        first.flush()
        file.seek(4096)
        assert file.read(3) == b"def"

def notified():
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init()
    assert libc.inotify_add_watch(fd, b"/data", 0x100 | 0x80) > 0  # IN_CREATE, IN_MOVED_TO
    open("/data/created", "w").close(); os.rename("/data/created", "/data/renamed")
    names = set()
    while names != {b"created", b"renamed"}:
        assert select.select([fd], [], [], 10)[0], names
        events = os.read(fd, 4096)
        while events:
            length = struct.unpack_from("iIII", events)[3]
            names.add(events[16:16 + length].rstrip(b"\0")); events = events[16 + length:]

def direct():
    page = mmap.mmap(-1, 4096); page.write(b"d" * 4096)
    fd = os.open("/data/direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    assert os.write(fd, page) == 4096 and os.fsync(fd) is None
    assert os.preadv(fd, [page], 0) == 4096 and page[:4] == b"dddd"
    os.posix_fallocate(fd, 0, 65536); assert os.fstat(fd).st_size == 65536
    os.close(fd)

def attributes():
    os.setxattr("/data/renamed", "user.colour", b"green")
    assert os.getxattr("/data/renamed", "user.colour") == b"green" and "user.colour" in os.listxattr("/data/renamed")
    os.chown("/data/renamed", 7, 8); os.chmod("/data/renamed", 0o640); os.utime("/data/renamed", ns=(1, 2))
    status = os.stat("/data/renamed")
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777, status.st_mtime_ns) == (7, 8, 0o640, 2)

def database():
    for mode in ("wal", "delete"):
        base = sqlite3.connect("/data/base"); base.execute(f"pragma journal_mode={mode}")
        base.execute("create table if not exists t (n integer)")
        for n in range(50):
            with base: base.execute("insert into t values (?)", (n,))
        other = sqlite3.connect("/data/base")
        assert other.execute("select sum(n) % 1225 from t").fetchone() == (0,)
        assert base.execute("pragma integrity_check").fetchone() == ("ok",)
        other.close(); base.close()

def files():
    for n in range(300):
        with tempfile.NamedTemporaryFile(dir="/data", delete=False) as file:
            file.write(b"%d" % n); file.flush(); os.fsync(file.fileno())
        os.replace(file.name, f"/data/f{n}")
    digest = hashlib.sha256(b"".join(open(f"/data/f{n}", "rb").read() for n in range(300)))
    assert digest.hexdigest() == hashlib.sha256("".join(map(str, range(300))).encode()).hexdigest()

for part in (serve_and_fetch, lambda: asyncio.run(asynchronous()), processes, locks, mapped, notified, direct, attributes, database, files):
    part()
print("whole")
PYTHON
python3 /data/program.py
