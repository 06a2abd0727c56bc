# shellcheck shell=sh
# What the packages' scripts and `make install` share. Put into each of them when a package is made;
# they stand alone then.

lib=/usr/lib/ash
bwrap=/usr/bin/bwrap

# In a chroot and while an image is built there is no service manager to talk to.
booted() {
    [ -d /run/systemd/system ]
}

# A copy under a path of ours, because security profiles that are meant for the distribution's path
# break the change to another user id. Never half of it: sandboxes may be starting.
copy_bwrap() {
    [ -x "$bwrap" ] || return 0
    install -m 0755 "$bwrap" "$lib/bwrap.new"
    mv -f "$lib/bwrap.new" "$lib/bwrap"
}

# What others left in a directory stays, and the directory with it.
remove_empty() {
    for directory; do
        [ ! -d "$directory" ] || rmdir --ignore-fail-on-non-empty "$directory"
    done
}

# Lets everybody notice that files of theirs have come or gone.
reload() {
    journalctl --update-catalog || :
    booted || return 0
    systemctl daemon-reload || :
    if systemctl --quiet is-active dbus.service; then
        systemctl reload dbus.service || :
    fi
}

configure() {
    systemd-sysusers ash.conf
    systemd-tmpfiles --create ash.conf || :
    reload
}

# What runs goes on with the new version; turns are not touched, for their sandboxes are in
# ash-sandboxes.service, which is left alone. A configuration that the new version refuses is told
# in its journal, and is no reason to leave the package half installed.
restart_running() {
    booted || return 0
    systemctl try-restart ashd.service || :
    # It finishes the answers that are under way first; that is not waited for.
    systemctl --no-block try-restart ash-broker.service || :
}

# ashd first: it ends the sandboxes and records that.
stop_all() {
    booted || return 0
    systemctl stop ashd.socket ashd.service || :
    systemctl stop ash-broker.socket ash-broker.service ash-sandboxes.service || :
}

# The links of `systemctl enable`, which are in directories like multi-user.target.wants; those of
# `mask` are above.
disable_units() {
    forget_links -mindepth 2
}

forget_links() {
    [ -d /etc/systemd/system ] || return 0
    find /etc/systemd/system "$@" -xdev -type l \( -name 'ashd.s*' -o -name 'ash-broker.s*' \
        -o -name 'ash-sandboxes.s*' \) -delete
}

# What runs at every boot runs again.
start_enabled() {
    booted || return 0
    for unit in ash-sandboxes.service ash-broker.socket ashd.socket ashd.service; do
        if systemctl --quiet is-enabled "$unit" 2>/dev/null; then
            systemctl start "$unit" || :
        fi
    done
}

# Whether this is no upgrade. The copy goes with a removal, after which dpkg names the version before
# as it does at an upgrade.
is_new() {
    [ ! -e "$lib/bwrap" ]
}

say_next() {
    echo "ashd is installed, not started. Next: ashctl setup, then systemctl enable --now ashd"
}
