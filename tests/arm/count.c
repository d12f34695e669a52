/* A plugin for QEMU's user-mode emulation that counts the guest's instructions (qemu-user of Debian 12, 7.2).
 *
 *     gcc -shared -fPIC -O2 -o count.so count.c && qemu-aarch64 -plugin ./count.so -d plugin PROGRAM
 *
 * Prints to stderr at the end lines "kind NAME N", the instructions of each kind of code (see `kinds`), and "instructions N",
 * all of them; with `-plugin ./count.so,blocks=on` first one line "block ADDRESS N" per translated block: its address, and
 * the number of instructions executed in it. A callback adds atomically, as QEMU's inline
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
struct qemu_plugin_insn;
struct qemu_info;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*callback)(qemu_plugin_id_t id, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*callback)(unsigned cpu, void *data),
                                          enum qemu_plugin_cb_flags flags, void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t id, void *data), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
void qemu_plugin_outs(const char *text);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

/* A block is of the kind of its most frequent multiply-adds if they are a fifth of its instructions or more. */
enum kind { F32, F16, SDOT, WIDENING, OTHER, KINDS };
static const char *const kinds[KINDS] = {"f32", "f16", "sdot", "widening", "other"};

struct block {
    uint64_t address;
    uint64_t length;
    uint64_t executions;
    enum kind kind;
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

/* The kind of a multiply-add of vectors, by the tables of "Data processing - SIMD and floating-point" in the Arm Architecture
 * Reference Manual. Widening: 8-bit products in 16 bits (SMULL, SMLAL), their sums in 32 (SADALP), and 16-bit ones. */
static enum kind kind_of_instruction(uint32_t word)
{
    unsigned size = word >> 22 & 3, opcode = word >> 12 & 15;
    bool is_unsigned = word >> 29 & 1;
    if ((word & 0x9F20FC00) == 0x0E009400)
        return SDOT;
    /* FMLA and FMLS of f32, and of f16. */
    if ((word & 0xBF20FC00) == 0x0E20CC00)
        return F32;
    if ((word & 0xBF60FC00) == 0x0E400C00)
        return F16;
    /* By element: FMLA, FMLS; SDOT, UDOT; SMLAL, SMLSL, SMULL; MLA, MLS. */
    if ((word & 0x9F000400) == 0x0F000000) {
        if (!is_unsigned && (opcode == 1 || opcode == 5))
            return size == 0 ? F16 : F32;
        if (opcode == 14)
            return SDOT;
        if (opcode == 2 || opcode == 6 || opcode == 10 || (is_unsigned && (opcode == 0 || opcode == 4)))
            return WIDENING;
        return OTHER;
    }
    /* SMLAL, SMLSL, SMULL; SADALP; MLA, MLS. */
    if ((word & 0x9F200C00) == 0x0E200000 && (opcode == 8 || opcode == 10 || opcode == 12))
        return WIDENING;
    if ((word & 0x9F3FFC00) == 0x0E206800 || (word & 0x9F20FC00) == 0x0E209400)
        return WIDENING;
    return OTHER;
}

static enum kind kind_of_block(const struct qemu_plugin_tb *block, size_t length)
{
    size_t found[KINDS] = {0};
    for (size_t i = 0; i < length; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        found[kind_of_instruction(word)]++;
    }
    enum kind most = F32;
    for (enum kind kind = F32; kind < OTHER; kind++)
        if (found[kind] > found[most])
            most = kind;
    return 5 * found[most] >= length ? most : OTHER;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    struct block *entry = calloc(1, sizeof *entry);
    if (!entry)
        abort();
    entry->address = qemu_plugin_tb_vaddr(block);
    entry->length = qemu_plugin_tb_n_insns(block);
    entry->kind = kind_of_block(block, entry->length);
    entry->next = blocks;
    blocks = entry;
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, QEMU_PLUGIN_CB_NO_REGS, entry);
}

static void ended(qemu_plugin_id_t id, void *data)
{
    char line[64];
    (void)id;
    (void)data;
    uint64_t instructions = 0, by_kind[KINDS] = {0};
    for (struct block *entry = blocks; entry; entry = entry->next) {
        uint64_t here = entry->length * entry->executions;
        instructions += here;
        by_kind[entry->kind] += here;
        if (!by_block)
            continue;
        snprintf(line, sizeof line, "block %" PRIu64 " %" PRIu64 "\n", entry->address, here);
        qemu_plugin_outs(line);
    }
    for (enum kind kind = F32; kind < KINDS; kind++) {
        snprintf(line, sizeof line, "kind %s %" PRIu64 "\n", kinds[kind], by_kind[kind]);
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
