#!/bin/sh
# Makes what a virtual machine boots from out of a Debian root: image.sh ROOT, results in $ASGARD_IMAGE.
# Nothing is added to the root: what the machine does besides booting comes in its initial file system.
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
root=$1
kernel=$(ls "$root/lib/modules")

cp "$root/boot/vmlinuz-$kernel" "$ASGARD_IMAGE/kernel"

# The kernel mounts neither a disk nor a shared folder without modules.
early=$ASGARD_IMAGE/early
mkdir -p "$early/bin" "$early/lib" "$early/dev" "$early/proc" "$early/root"
cp "$root/bin/busybox" "$early/bin/busybox"
for module in virtio_blk crc32c_generic ext4 9pnet_virtio 9p; do
    chroot "$root" modprobe -S "$kernel" --show-depends "$module"
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' >"$early/modules"
while read -r module; do
    xz -dc "$root$module" >"$early/lib/$(basename "$module" .xz)"
done <"$early/modules"
sed -i 's|.*/|/lib/|; s|\.xz$||' "$early/modules"

cat >"$early/init" <<'INIT'
#!/bin/busybox sh
busybox() { /bin/busybox "$@"; }
busybox mount -t devtmpfs dev /dev
while read -r module; do busybox insmod "$module"; done </modules
busybox mount -t ext4 /dev/vda /root
busybox mount -t proc proc /root/proc
busybox mount -t sysfs sys /root/sys
busybox mount -t tmpfs run /root/run
busybox mount --move /dev /root/dev
busybox mkdir /root/run/asgard
busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro asgard /root/run/asgard
exec /bin/busybox switch_root /root /bin/sh /run/asgard/init.sh
INIT
chmod +x "$early/init"
(cd "$early" && find . | cpio --quiet -o -H newc) | gzip -1 >"$ASGARD_IMAGE/initrd"
rm -r "$early"

# While packages are installed, kernel file systems are mounted in the root, and apt keeps what it fetched there.
tree=$root/.tree
mkdir "$tree"
find "$root" -mindepth 1 -maxdepth 1 ! -name .tree ! -name proc ! -name sys ! -name dev ! -name run ! -name tmp \
    -exec cp -al -t "$tree" {} +
mkdir "$tree/proc" "$tree/sys" "$tree/dev" "$tree/run" "$tree/tmp"
rm -rf "$tree/var/cache/apt" "$tree/var/lib/apt/lists"

# A quarter of the space stays free for the guest.
size=$(du -sm --apparent-size "$tree" | cut -f1)
mke2fs -q -t ext4 -O ^has_journal -d "$tree" "$ASGARD_IMAGE/root" "$((size * 5 / 4 + 200))M"
rm -r "$tree"
