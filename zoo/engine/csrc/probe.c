/* Limits of this machine, measured with the kernels of the engine: what its speed is compared with. */
#include "kernels.h"

static const Kernels *chosen(void) {
    const char *name = getenv("ZOO_ENGINE_ISA");
    const Kernels *found = find_kernels(name ? name : "");
    return found ? found : find_kernels("");
}

float zoo_read(const float *values, size_t n) {
    enum { COLS = 1024 };
    static const float ones[COLS] = {[0 ... COLS - 1] = 1};
    const Kernels *kernels = chosen();
    float total = 0, y[BLOCK_ROWS];
    for (size_t i = 0, rows, cols; i < n; i += rows * cols) {
        cols = n - i < COLS ? n - i : COLS;
        rows = (n - i) / cols < BLOCK_ROWS ? (n - i) / cols : BLOCK_ROWS;
        kernels->product((Rows){(const char *)(values + i), NULL, 4 * cols, 0, (int)cols}, F32, (int)rows, ones, COLS, 1, y, BLOCK_ROWS, NULL);
        for (size_t r = 0; r < rows; r++) total += y[r];
    }
    return total;
}

float zoo_multiply(size_t n) { return chosen()->multiply(OPERAND_F32, n); }
float zoo_multiply_bf16(size_t n) { return chosen()->multiply(OPERAND_BF16, n); }
float zoo_multiply_int16(size_t n) { return chosen()->multiply(OPERAND_INT16, n); }
float zoo_multiply_int8(size_t n) { return chosen()->multiply(OPERAND_INT8, n); }
