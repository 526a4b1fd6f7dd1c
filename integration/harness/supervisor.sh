# Runs one private PostgreSQL and outlives the test process by a moment.
# usage: sh -c "$(cat supervisor.sh)" supervisor BIN DIR KEEP, one command per line on stdin, one answer per line on stdout
#
# The test process holds the other end of stdin. However it ends, also by kill -9, that end closes,
# `read` sees the end of the file, and the server and its folder go.
bin=$1 dir=$2 keep=$3
pid=

# An answer that nobody reads any more must not end us before we have tidied up.
trap '' PIPE

# Ready is what the server itself says, in line 8 of the pid file that carries its own pid.
ready() {
    [ "$(sed -n 1p "$dir/data/postmaster.pid" 2>/dev/null)" = "$pid" ] &&
        [ "$(sed -n 8p "$dir/data/postmaster.pid" 2>/dev/null | tr -d ' ')" = ready ]
}

start() {
    "$bin/postgres" -D "$dir/data" </dev/null >>"$dir/log" 2>&1 &
    pid=$!
    until ready; do
        kill -0 "$pid" 2>/dev/null || { pid=; return 1; }
        sleep 0.02
    done
}

stop() {
    [ -z "$pid" ] && return
    kill -s "$1" "$pid" 2>/dev/null
    wait "$pid"
    pid=
}

while read -r word; do
    case $word in
    init) "$bin/initdb" -A trust --no-sync -U postgres --encoding=UTF8 --locale=C -D "$dir/data" </dev/null >>"$dir/log" 2>&1 ;;
    # The files of another cluster, which must be stopped.
    "copy "*) cp -a "${word#copy }/data" "$dir/data" && rm -f "$dir/data/postmaster.pid" ;;
    # A standby of a running one, which is named by its socket's folder and port.
    "backup "*)
        set -- ${word#backup }
        "$bin/pg_basebackup" -h "$1" -p "$2" -U postgres -D "$dir/data" -R -X stream -c fast --no-sync </dev/null >>"$dir/log" 2>&1
        ;;
    start) start ;;
    fast) stop INT; true ;;
    immediate) stop QUIT; true ;;
    *) false ;;
    esac && echo ok || echo failed
done

# A folder that goes needs no orderly end, and an immediate stop also ends backends that hang.
if [ "$keep" = keep ]; then
    stop INT
else
    stop QUIT
    rm -rf "$dir"
fi
