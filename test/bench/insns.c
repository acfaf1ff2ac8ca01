/*
 * A plugin for qemu's user mode that counts the guest's instructions by the block in which they
 * stand: qemu-arm -plugin insns.so,to=OUT PROGRAM.  At the program's end it writes one line
 * `address instructions` for each block that ran into OUT.  counts.py adds them up by function.
 *
 * qemu translates a block once, or again when it threw the code away; each translation gets a
 * counter here, which the translated code itself raises by the block's length.  A block that an
 * exception leaves counts whole.  What is declared below is the part of version 1 of qemu's plugin
 * interface that is used: its header is in no package.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_tb;
typedef void tb_callback(uint64_t id, struct qemu_plugin_tb *tb);
typedef void end_callback(uint64_t id, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, tb_callback *f);
void qemu_plugin_register_atexit_cb(uint64_t id, end_callback *f, void *data);
void qemu_plugin_register_vcpu_tb_exec_inline(
	struct qemu_plugin_tb *tb, int op, void *number, uint64_t addend); /* op 0: add */
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);

EXPORT int qemu_plugin_version = 1;

enum { BLOCKS = 1 << 18 };

static struct block {
	uint64_t at, count;
} blocks[BLOCKS + 1]; /* the last one takes what finds no room */
static size_t used;
static char file[4096];

static void
translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	struct block *b = &blocks[used];

	(void)id;
	if (used < BLOCKS) {
		b->at = qemu_plugin_tb_vaddr(tb);
		used++;
	}
	qemu_plugin_register_vcpu_tb_exec_inline(tb, 0, &b->count, qemu_plugin_tb_n_insns(tb));
}

static void
end(uint64_t id, void *data)
{
	FILE *f = fopen(file, "w");

	(void)id;
	(void)data;
	for (size_t i = 0; f != NULL && i <= used; i++)
		if (blocks[i].count > 0)
			fprintf(f, "%" PRIx64 " %" PRIu64 "\n", blocks[i].at, blocks[i].count);
	if (f != NULL)
		fclose(f);
}

EXPORT int
qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++)
		if (strncmp(argv[i], "to=", 3) == 0)
			snprintf(file, sizeof file, "%s", argv[i] + 3);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, end, NULL);
	return file[0] == '\0';
}
