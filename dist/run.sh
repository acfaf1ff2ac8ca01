#!/bin/sh
# What `make run` starts: the server with the console page, an echo and a hub, and a certificate of
# its own in ./run. PORT and LISTEN come from the Makefile. Ctrl-C ends it.
set -eu
umask 077
mkdir -p run

# Every address of this machine stands in the certificate, so that it fits from elsewhere too.
names="localhost 127.0.0.1 ::1 $(hostname) $(hostname -I 2>/dev/null || true)"
./wssd-selfsign --key run/key.pem --cert run/cert.pem --renew 30 $names
other=$(hostname -I 2>/dev/null | awk '{ print $1 }') || other=

banner()
{
	port=${1##*:}
	where="https://localhost:$port/"
	case $LISTEN in
	127.0.0.1) elsewhere="make run LISTEN=0.0.0.0" ;;
	*) elsewhere="https://${other:-ADDRESS}:$port/" ;;
	esac
	cat <<END

  ================================================================

    Open    $where

    The browser warns once: nobody has signed this certificate but
    this machine (it is run/cert.pem). Accept it and go on.

    From another machine: $elsewhere
    End it with Ctrl-C.

  ================================================================

END
}

# The server's log passes through here, so that the address is the one it really got.
rm -f run/log
mkfifo run/log
while IFS= read -r line; do
	printf '%s\n' "$line"
	case $line in
	"listening on "*) banner "$line" ;;
	esac
done <run/log &
# Whoever starts this keeps the key to himself: nobody else could read it at a reload.
user=
if test "$(id -u)" = 0; then
	user="--user root"
fi
exec ./wssd $user --listen "wss://$LISTEN:$PORT" --cert run/cert.pem --key run/key.pem \
	--root dist/www /echo=echo /chat=hub 2>run/log
