/* A plugin for QEMU's user-mode emulation that counts the guest's instructions (qemu-user of Debian 12, 7.2).
 *
 *     gcc -shared -fPIC -O2 -o count.so count.c && qemu-aarch64 -plugin ./count.so -d plugin PROGRAM
 *
 * Prints "instructions N" to stderr at the end; with `-plugin ./count.so,blocks=on` first one line "block ADDRESS N" per
 * translated block: its address, and the number of instructions executed in it. A callback adds atomically, as QEMU's inline
 * addition loses counts with several threads. Debian does not package qemu-plugin.h, so its declarations are repeated here;
 * QEMU's docs/devel/tcg-plugins.rst documents the interface. */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_info;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*callback)(qemu_plugin_id_t id, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*callback)(unsigned cpu, void *data),
                                          enum qemu_plugin_cb_flags flags, void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t id, void *data), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
void qemu_plugin_outs(const char *text);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

struct block {
    uint64_t address;
    uint64_t length;
    uint64_t executions;
    struct block *next;
};

static bool by_block;
/* A block that is translated again is in here again. Translation holds a lock of QEMU's. */
static struct block *blocks;

static void executed(unsigned cpu, void *data)
{
    (void)cpu;
    __atomic_fetch_add(&((struct block *)data)->executions, 1, __ATOMIC_RELAXED);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    struct block *entry = calloc(1, sizeof *entry);
    if (!entry)
        abort();
    entry->address = qemu_plugin_tb_vaddr(block);
    entry->length = qemu_plugin_tb_n_insns(block);
    entry->next = blocks;
    blocks = entry;
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, QEMU_PLUGIN_CB_NO_REGS, entry);
}

static void ended(qemu_plugin_id_t id, void *data)
{
    char line[64];
    (void)id;
    (void)data;
    uint64_t instructions = 0;
    for (struct block *entry = blocks; entry; entry = entry->next) {
        uint64_t here = entry->length * entry->executions;
        instructions += here;
        if (!by_block)
            continue;
        snprintf(line, sizeof line, "block %" PRIu64 " %" PRIu64 "\n", entry->address, here);
        qemu_plugin_outs(line);
    }
    snprintf(line, sizeof line, "instructions %" PRIu64 "\n", instructions);
    qemu_plugin_outs(line);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info,
                                                               int argc, char **argv)
{
    (void)info;
    by_block = argc == 1 && strcmp(argv[0], "blocks=on") == 0;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
