#include "homology_reducer_rows_impl.hpp"

namespace repgeom::reducer {

constinit const RowKernels baseline_rows = make_rows("baseline");

}  // namespace repgeom::reducer
