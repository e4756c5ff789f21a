#include "cpu_dispatch.hpp"

namespace repgeom {

namespace {

#if defined(__x86_64__)
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
}

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

std::vector<const KernelTable*> detect() {
    std::vector<const KernelTable*> tables{&baseline_kernels};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (has_avx2()) tables.push_back(&avx2_kernels);
    if (has_avx2() && has_avx512()) tables.push_back(&avx512_kernels);
#endif
    return tables;
}

}  // namespace

const std::vector<const KernelTable*>& available_kernels() {
    static const std::vector<const KernelTable*> tables = detect();
    return tables;
}

const KernelTable& kernels(std::string_view name) {
    std::string rule = "instruction set must be one of those that run here:";
    for (const KernelTable* table : available_kernels()) {
        if (name == table->name) return *table;
        rule.append(" ").append(table->name);
    }
    require(name.empty(), rule, name);
    return *available_kernels().back();
}

}  // namespace repgeom
