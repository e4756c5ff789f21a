#include "homology_reducer_rows_impl.hpp"

namespace repgeom::reducer {

constinit const RowKernels avx512_rows = make_rows("avx512");

}  // namespace repgeom::reducer
