"""What documents take as done: an overlay with changes, a base, the helpers of mount(8).

By document, then by the heading at whose first block the commands are given; the shell is that of
``tests/docs/session.py``.
"""

from __future__ import annotations

_USR = """
mkdir -p /srv/usr/bin /srv/usr/lib /srv/usr/share/dict /srv/usr/share/doc /mnt/usr /var/lib/usr-changes
"""
_ETC = """
writable /etc
mkdir -p /mnt/etc /var/lib/etc-changes
echo 'Welcome' > /etc/motd
echo 'port 80' > /etc/app.conf
mkdir -p /etc/cron.d
"""
_MOUNT_ETC = "minifo mount --base /etc --sto /var/lib/etc-changes /mnt/etc"

BEFORE: dict[str, dict[str, str]] = {
    "README.md": {"Use it": "writable /usr/sbin"},
    "docs/man/mount.mini_fo.8.md": {
        "Examples": "writable /usr/sbin; minifo install-helpers; mkdir -p /mnt/usr /var/lib/usr-changes"
    },
    "docs/base-updates.md": {
        "Before the update: make the overlay independent": """
            mkdir -p /media/rom-a/usr/share /var/lib/changes /mnt/rom
            head -c 3000000 /dev/urandom > /media/rom-a/usr/share/data.img
            minifo mount --base /media/rom-a --sto /var/lib/changes /mnt/rom
            printf new | dd of=/mnt/rom/usr/share/data.img conv=notrunc status=none
            minifo umount /mnt/rom
        """,
        "After the update: settle it": """
            rm -r /var/lib/changes /media/rom-a
            mkdir -p /media/rom-a/etc /media/rom-a/usr/share /media/rom-b /var/lib/changes
            cd /media/rom-a/etc
            printf 'name=a\\n\\n\\nport=80\\n' > app.conf
            for name in motd old.conf issue extra; do echo "$name a" > $name; done
            head -c 300000 /dev/urandom > ../usr/share/data.img
            cp -a /media/rom-a/. /media/rom-b
            cd ../../rom-b/etc
            printf 'name=b\\n\\n\\nport=80\\n' > app.conf
            echo 'motd b' > motd
            echo 'new b' > new.conf
            rm old.conf
            head -c 300000 /dev/urandom > ../usr/share/data.img
            minifo mount --base /media/rom-a --sto /var/lib/changes /mnt/rom
            cd /mnt/rom/etc
            printf 'name=a\\n\\n\\nport=8080\\n' > app.new
            mv app.new app.conf
            echo 'motd, ours' > motd
            echo 'new, ours' > new.conf
            echo 'old, ours' >> old.conf
            chmod 600 issue
            rm extra
            printf new | dd of=../usr/share/data.img conv=notrunc status=none
            cd /
            minifo umount /mnt/rom
        """,
        "Recipes": """
            umount /media/rom-a /media/rom-b 2>/dev/null || true
            rm -rf /media/* /var/lib/changes
            mkdir -p /srv/rom /media/rom-a /media/rom-b /var/lib/changes
            echo a > /srv/rom/version
            mksquashfs /srv/rom /media/rom-a.sqfs -quiet -no-progress
            echo b > /srv/rom/version
            mksquashfs /srv/rom /media/rom-b.sqfs -quiet -no-progress
            mount -o loop,ro /media/rom-a.sqfs /media/rom-a
            minifo mount --base /media/rom-a --sto /var/lib/changes /mnt/rom
            echo ours > /mnt/rom/settings
        """,
    },
    "docs/containers.md": {
        "Several layers by hand": "mkdir -p /srv/site /srv/common /var/lib/site /srv/www",
    },
    "docs/export.md": {
        "To other systems: `minifo export`": f"""{_ETC}{_MOUNT_ETC}
            mkdir /mnt/new
            echo hello > /mnt/etc/motd
            rm /mnt/etc/app.conf
        """,
    },
    "docs/faq.md": {"How is it mounted?": "writable /usr/sbin"},
    "docs/fsck.md": {
        "Bytes that change by themselves": f"""{_USR}
            minifo mount --base /srv/usr --sto /var/lib/usr-changes /mnt/usr
            head -c 5242880 /dev/urandom > /mnt/usr/lib/model.bin
            head -c 1000000 /dev/urandom > /mnt/usr/lib/other.bin
            minifo checkpoint create /mnt/usr factory
            minifo umount /mnt/usr
            minifo-fsck -y --verify-data /var/lib/usr-changes
            printf X | dd of="$(find /var/lib/usr-changes/content -size 10240)" conv=notrunc status=none
        """,
    },
    "docs/inspect.md": {
        "What changed: `minifo diff`": f"""{_USR}
            for name in bin/tool lib/old.so share/dict/words share/info; do echo $name > /srv/usr/$name; done
            minifo mount --base /srv/usr --sto /var/lib/usr-changes /mnt/usr
            cd /mnt/usr
            mv lib/old.so lib/new.so
            echo word >> share/dict/words
            chmod 700 bin/tool
            mkdir -p local/new
            rmdir share/doc
            rm share/info
            mkdir share/info
        """,
        "Who changed what: `minifo log`": f"""{_ETC}
            minifo mount --base /etc --sto /var/lib/etc-changes -o journal=10000 /mnt/etc
            cp /etc/motd /mnt/etc/motd.new
            mv /mnt/etc/motd.new /mnt/etc/motd
            rm /mnt/etc/app.conf
        """,
        "Counters for Prometheus: `minifo metrics`": """
            minifo umount /mnt/usr
            writable /usr/sbin
            minifo install-helpers
            mkdir /var/lib/node_exporter
        """,
    },
    "docs/legacy.md": {
        "Bringing a storage over": """
            mkdir -p /srv/rom/doc /srv/overlay/etc
            echo base > /srv/rom/motd
            echo changed > /srv/overlay/motd
            echo 'D doc' > /srv/overlay/META_dAfFgHE39ktF3HD2sr
        """,
    },
    "docs/ship.md": {
        "All or nothing: `minifo txn`": f"""{_ETC}
            printf 'grep -q 8080 app.conf' > /etc/check-config
            chmod +x /etc/check-config
            for name in a b c; do head -c 1048576 /dev/urandom > /etc/$name; done
            {_MOUNT_ETC}
        """,
        "Less storage: `minifo vacuum`": """
            minifo umount /mnt/etc
            rm -r /var/lib/etc-changes
            mkdir /var/lib/etc-changes
            minifo mount --base /etc --sto /var/lib/etc-changes -o copy_up=whole /mnt/etc
            for name in a b c; do dd if=/etc/$name of=/mnt/etc/$name conv=notrunc status=none; done
        """,
        "Into the base: `minifo merge`": f"""
            minifo umount /mnt/etc
            rm -r /var/lib/etc-changes
            mkdir /var/lib/etc-changes
            {_MOUNT_ETC}
            echo 'port 8080' > /mnt/etc/app.conf
            head -c 4990 /dev/zero > /mnt/etc/cron.d/nightly
            rm /mnt/etc/motd
            minifo umount /mnt/etc
        """,
    },
}
