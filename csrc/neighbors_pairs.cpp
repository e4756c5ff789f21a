#include "neighbors_pairs.hpp"

#include <string_view>

namespace repgeom {

const PairKernels& pair_kernels(const KernelTable& table) {
#if defined(__x86_64__)
    for (const PairKernels* pairs : {&avx2_pairs, &avx512_pairs})
        if (std::string_view(pairs->name) == table.name) return *pairs;
#endif
    static_cast<void>(table);
    return baseline_pairs;
}

}  // namespace repgeom
