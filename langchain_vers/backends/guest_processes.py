"""The shell functions of a session that look at the machine's processes: which belong to a call, and is its output passed on? Pure text.

They need /proc, and do with less where there is none (`guest.py` says what for).
"""

FUNCTIONS = r"""
# All processes that carry the mark $1, that descend from one of those, or are in a session that one of those leads: commands such as sudo
# and `env -i` drop the mark. They are stopped first, so that none forks while the others are being found. $2 is the leader, should it be
# gone.
__vers_kill() {
  exec 2>/dev/null
  if [ ! -r /proc/self/environ ]; then kill -9 0; fi
  read -r __me __s </proc/self/stat
  __mark=$1 __held=" $2 "
  while :; do
    __more=
    for __f in $(grep -lsF "VERS_CALL=$__mark" /proc/[0-9]*/environ); do
      __f=${__f#/proc/}
      __vers_hold "${__f%/environ}"
    done
    for __f in /proc/[0-9]*/stat; do
      IFS= read -r __s <"$__f" || continue
      set -- ${__s##*) }
      case $__held in *" $2 "* | *" $4 "*) __vers_hold "${__s%% *}" ;; esac
    done
    [ -n "$__more" ] || break
  done
  kill -9 $__held
  for __f in $__held; do
    while IFS= read -r __s <"/proc/$__f/stat"; do
      case ${__s##*) } in [ZX]*) break ;; esac
      sleep 0.01 || sleep 1
    done
  done
}

__vers_hold() {
  case "$__held$__me " in *" $1 "*) return ;; esac
  # One that is gone by now may have been the search itself.
  kill -STOP "$1" || return 0
  __held="$__held$1 " __more=1
}

# Wait until what is left of the session sleeps: then its tee has passed on all that there was. On a machine that is slow to start programs
# the command may be over before its tee is there. Not for ever: background processes may keep it busy.
__vers_settle() {
  read -r __me __s </proc/self/stat || return 0
  __k=0
  while [ "$__k" -lt 100 ]; do
    __k=$((__k + 1)) __more=
    for __f in /proc/[0-9]*/stat; do
      IFS= read -r __s <"$__f" || continue
      set -- "${__s%% *}" ${__s##*) }
      case "$3 $2 $1" in "$$ "[SZX]* | "$$ "*" $__me") ;; "$$ "*) __more=1 ;; esac
    done
    [ -n "$__more" ] || return 0
    sleep 0.05 || sleep 1
  done
} 2>/dev/null
"""
