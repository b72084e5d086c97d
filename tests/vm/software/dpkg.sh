# A package is built, installed by apt and by dpkg, configured, upgraded and purged.
mkdir -p /data/a/DEBIAN /data/a/etc /data/a/usr/bin
cd /data
pack() {
    printf 'Package: parcel\nVersion: %s\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDepends: libc6\nDescription: a test\n' "$1" >a/DEBIAN/control
    printf '#!/bin/sh\necho parcel %s\n' "$1" >a/usr/bin/parcel
    chmod 755 a/usr/bin/parcel
    dpkg-deb --root-owner-group -b a "parcel_$1.deb" >/dev/null
}
echo setting >a/etc/parcel.conf
echo /etc/parcel.conf >a/DEBIAN/conffiles
printf '#!/bin/sh\nset -e\n[ "$1" != configure ] || id parcel-user >/dev/null 2>&1 || useradd --system --no-create-home parcel-user\n' >a/DEBIAN/postinst
chmod 755 a/DEBIAN/postinst
pack 1
pack 2
export DEBIAN_FRONTEND=noninteractive
apt-get -qq install -y ./parcel_1.deb >/dev/null
[ "$(parcel)" = "parcel 1" ]
grep -q parcel-user /etc/passwd
echo mine >>/etc/parcel.conf
dpkg -i parcel_2.deb >/dev/null
[ "$(parcel)" = "parcel 2" ]
[ "$(dpkg-query -W -f '${Version} ${db:Status-Status}' parcel)" = "2 installed" ]
grep -q mine /etc/parcel.conf
[ "$(dpkg --verify parcel)" = "??5?????? c /etc/parcel.conf" ]
apt-get -qq purge -y parcel >/dev/null
[ ! -e /usr/bin/parcel ]
[ ! -e /etc/parcel.conf ]
dpkg --audit
echo whole
