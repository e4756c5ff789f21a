#include "homology_reducer_rows.hpp"

#include <string_view>

namespace repgeom::reducer {

const RowKernels& row_kernels(const KernelTable* table) {
#if defined(__x86_64__)
    if (table != nullptr)
        for (const RowKernels* rows : {&avx2_rows, &avx512_rows})
            if (std::string_view(rows->name) == table->name) return *rows;
#endif
    static_cast<void>(table);
    return baseline_rows;
}

}  // namespace repgeom::reducer
