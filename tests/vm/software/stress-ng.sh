# A little of everything, each checking its own results.
cd /data
for stressor in "cpu 1 --cpu-ops 10" "vm 1 --vm-bytes 16m --vm-ops 200" "io 1 --io-ops 10" "fork 1 --fork-ops 100" "switch 1 --switch-ops 1000" \
    "hdd 1 --hdd-bytes 4m --hdd-ops 50" "mmap 1 --mmap-bytes 4m --mmap-ops 2" "futex 1 --futex-ops 500" "pipe 1 --pipe-ops 1000" \
    "sock 1 --sock-ops 10" "shm 1 --shm-ops 2" "mq 1 --mq-ops 500" "flock 1 --flock-ops 200" "lockf 1 --lockf-ops 200" \
    "dentry 1 --dentry-ops 200" "rename 1 --rename-ops 200" "xattr 1 --xattr-ops 5" "timer 1 --timer-ops 200" "poll 1 --poll-ops 200" \
    "inotify 1 --inotify-ops 2" "sendfile 1 --sendfile-ops 10" "mremap 1 --mremap-bytes 4m --mremap-ops 2" "sigfd 1 --sigfd-ops 200" \
    "cap 1 --cap-ops 20" "getrandom 1 --getrandom-ops 20" "eventfd 1 --eventfd-ops 200" "fallocate 1 --fallocate-bytes 4m --fallocate-ops 10" \
    "aio 1 --aio-ops 20" "splice 1 --splice-ops 50" "tee 1 --tee-ops 50" "readahead 1 --readahead-bytes 4m --readahead-ops 100" \
    "memfd 1 --memfd-bytes 4m --memfd-ops 2" "udp 1 --udp-ops 100" "epoll 1 --epoll-ops 100" "vfork 1 --vfork-ops 50" "clone 1 --clone-ops 20"; do
    # shellcheck disable=SC2086 # words
    stress-ng --quiet --verify --timeout 60s --temp-path /data --$stressor || { echo "$stressor: $?"; exit 1; }
done
echo whole
