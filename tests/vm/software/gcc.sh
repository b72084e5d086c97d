# A library and a program out of sixteen files; make does again what changed, and nothing else.
mkdir /data/project
cd /data/project
for n in $(seq 15); do
    printf '#include "all.h"\nint part%d(int x)\n{\n\treturn x * %d;\n}\n' "$n" "$n" >"part$n.c"
done
for n in $(seq 15); do echo "int part$n(int x);"; done >all.h
{
    printf '#include <stdio.h>\n#include "all.h"\nint main(void)\n{\n\tint sum = 0;\n'
    for n in $(seq 15); do printf '\tsum += part%d(1);\n' "$n"; done
    printf '\tprintf("%%d\\n", sum);\n\treturn 0;\n}\n'
} >main.c
{
    printf 'CFLAGS = -O2 -Wall -Werror\nparts = $(patsubst %%,part%%.o,$(shell seq 15))\n'
    printf 'sum: main.o libparts.a\n\t$(CC) -o $@ $^\nlibparts.a: $(parts)\n\t$(AR) rcs $@ $^\nmain.o $(parts): all.h\n'
} >Makefile
make -s -j2
[ "$(./sum)" = 120 ]
make | grep -q "'sum' is up to date"
sed -i 's/x \* 15/x * 16/' part15.c
[ "$(make -n | grep -c -- -Wall)" = 1 ]
make -s
[ "$(./sum)" = 121 ]
echo whole
