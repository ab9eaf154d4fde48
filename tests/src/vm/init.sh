#!/bin/sh
# The guest's first process: shows the host's folders where the host has them, brings the GPU up, and leaves the rest
# to the agent, whose end is the machine's.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
busybox ip link set lo up

while read -r tag cache folder; do
    mkdir -p "$folder"
    mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,cache=$cache" "$tag" "$folder" || exit
done </run/asgard/folders

modprobe virtio_gpu
read -r agent </run/asgard/agent
"$agent" --agent
sync
busybox poweroff -f
