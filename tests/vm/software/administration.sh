# Users and what they may, archives and odd files, pseudoterminals and limits: the tools of an administrator.
cd /data
useradd --create-home somebody
echo somebody:secret | chpasswd
as() { runuser -u somebody -- "$@"; }
fails() {
    if "$@" 2>/dev/null; then
        echo "not refused: $*" >&2
        exit 1
    fi
}
[ "$(as id -un)" = somebody ]
[ "$(su - somebody -c 'pwd')" = /home/somebody ]
# A program of root's that everybody may run reads what only root may.
[ "$(as passwd -S | cut -d' ' -f1,2)" = "somebody P" ]
fails as cat /etc/shadow
# Programs with the owner's rights and with capabilities, on the volume.
cp /usr/bin/id owned
chown somebody owned
chmod 4755 owned
[ "$(./owned -un)" = somebody ]
cp /usr/bin/chown given
python3 -c 'import os, struct; os.setxattr("given", "security.capability", struct.pack("<5I", 0x02000001, 1, 0, 0, 0))'
touch file
as ./given somebody file
[ "$(stat -c %U file)" = somebody ]
# A write takes both away.
cp --attributes-only --preserve=all owned copy
[ "$(stat -c %a copy)" = 4755 ]
as sh -c 'echo >>owned'
[ "$(stat -c %a owned)" = 755 ]
# Sticky directories and directories of a group.
mkdir -m 1777 sticky
touch sticky/mine
fails as rm sticky/mine
mkdir shared
chgrp somebody shared
chmod 2775 shared
as touch shared/theirs
mkdir shared/below
[ "$(stat -c '%G %a' shared/below)" = "somebody 2755" ]
[ "$(stat -c %G shared/theirs)" = somebody ]
# Pipes, devices, sockets, holes, links and long names come through an archive.
mkdir tree
cd tree
mkfifo pipe
mknod null c 1 3
echo lost >null
[ "$(cat null | wc -c)" = 0 ]
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
truncate -s 1T holes
echo end >>holes
[ "$(stat -c %s holes)" = 1099511627780 ]
fallocate -l 1M allocated
fallocate --punch-hole --offset 0 --length 512K allocated
echo text >first
ln first second
ln -s first third
ln -s /nowhere broken
touch "$(printf 'n%.0s' $(seq 255))" "$(printf 'new\nline')" -- -dash $'\xff\xfe'
fails touch "$(printf 'n%.0s' $(seq 256))"
python3 -c 'import os; os.setxattr("first", "user.note", b"kept")'
touch -d '1970-01-02 03:04:05.678901234' first
truncate -s 1M holes
chmod 000 allocated
cd ..
tar --sparse --xattrs --exclude=socket -cf archive tree
mkdir unpacked
tar --sparse --xattrs -C unpacked -xpf archive
tar --sparse --xattrs -C unpacked -df archive
[ "$(stat -c %h unpacked/tree/second)" = 2 ]
[ "$(stat -c %y unpacked/tree/first)" = "1970-01-02 03:04:05.678901234 +0000" ]
cp -a tree other
mv tree /tmp/moved
diff -r --exclude=pipe --exclude=null --exclude=socket --no-dereference other /tmp/moved
rm -r other /tmp/moved unpacked
# Directories that change while they are read; paths that are deep.
mkdir many
(cd many && seq 3000 | xargs touch)
find many -type f -name '*7' -delete
[ "$(find many -type f | wc -l)" = 2700 ]
rm -r many
deep=$(printf 'deep/%.0s' $(seq 100))
mkdir -p "$deep"
echo bottom >"${deep}file"
[ "$(find deep -name file -exec cat {} +)" = bottom ]
# A file that is gone is still there for who has it open.
exec 3<>open
rm open
echo unnamed >&3
[ "$(cat /proc/self/fd/3)" = unnamed ]
exec 3>&-
# Limits, locks and terminals.
fails bash -c 'ulimit -f 1; dd if=/dev/zero of=big bs=1k count=100'
[ "$(stat -c %s big)" = 1024 ]
[ "$(prlimit --nofile=77:88 sh -c 'ulimit -Sn; ulimit -Hn' | xargs)" = "77 88" ]
flock lock sh -c '! flock --nonblock lock true'
script --quiet --return --command 'test -t 0 && tty' /dev/null | grep -q /dev/pts/
[ "$(nice -n 5 nice)" = 5 ]
timeout -s KILL 1 sleep 100 || [ $? = 137 ]
[ "$(taskset -p $$ | wc -l)" = 1 ]
df --output=target /data | tail -n 1 | grep -qx /data
sync -f file
echo whole
