# Sourced after setup.sh: the emulator's plugin that counts instructions, and tables of its counts by kind of code.

packages gcc libc6-dev >/dev/null || skip 'needs gcc'
mkdir -p "$arm"
plugin=$(realpath "$arm")/count.so
gcc -shared -fPIC -O2 -Wall -Wextra -Werror -o "$plugin" tests/arm/count.c

# record TABLE PROGRAM CPU NETWORK LOG_OF_FEWER LOG_OF_MORE: writes the difference of two logs of the plugin as a line of TABLE,
# a file with tabs, in the place of an older line of CPU and NETWORK, and prints it.
record() {
    local line new
    line=$(awk -v first="$2\t$3\t$4" '
        $1 == "kind" { if (FNR == NR) before[$2] = $3; else { printf "%s\t%.0f", n++ ? "" : first, $3 - before[$2] } }
        END { print "" }' <(grep '^kind' "$5") <(grep '^kind' "$6"))
    [ -e "$1" ] || printf 'program\tcpu\tnetwork\tf32\tf16\tsdot\twidening\tother\n' >"$1"
    new=$(awk -F'\t' -v OFS='\t' -v cpu="$3" -v network="$4" -v line="$line" '
        $2 == cpu && $3 == network { print line; found = 1; next }
        { print }
        END { if (!found) print line }' "$1")
    printf '%s\n' "$new" >"$1"
    printf '%s\n' "$line"
}
