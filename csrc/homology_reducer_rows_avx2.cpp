#include "homology_reducer_rows_impl.hpp"

namespace repgeom::reducer {

constinit const RowKernels avx2_rows = make_rows("avx2");

}  // namespace repgeom::reducer
