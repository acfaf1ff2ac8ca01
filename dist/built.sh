#!/bin/sh
# built.sh CC FLAGS...: in one line, for `wssd --version`, what this compiler makes with these flags.
# It asks the preprocessor and how the linker would be called: nothing that was built is executed, so
# that a cross-compiler answers as well. What it cannot find out it does not name. test/test_build.py
# holds the words against readelf.

macros=$("$@" -include bearssl.h -dM -E -x c /dev/null 2>/dev/null)
link=$("$@" '-###' -x c /dev/null 2>&1)
target=$("$@" -dumpmachine 2>/dev/null)

word() { # whether the linker is given it
	case $link in *[\ \"]"$1"[\ \"]*) return 0 ;; esac
	return 1
}

# BearSSL has no number of its version, but each had something new.
case $macros in
*BR_FEATURE_X509_TIME_CALLBACK*) text='BearSSL after 0.6' ;;
*BR_PEM_LINE64*) text='BearSSL 0.6' ;;
*) text=BearSSL ;;
esac
test -z "$target" || text="$text, $target"
# GCC for ARM calls its linker with the other word, which may also be meant for one library alone.
if word -static || { word -Bstatic && ! word -Bdynamic; }; then
	text="$text, static"
fi
! word -pie || text="$text, PIE"
if word relro && word now && ! word norelro && ! word lazy; then
	text="$text, full RELRO"
fi
case $macros in *__SSP_STRONG__* | *__SSP_ALL__*) text="$text, stack protector" ;; esac
case $macros in *'__USE_FORTIFY_LEVEL '[1-9]*) text="$text, fortified" ;; esac
echo "$text"
