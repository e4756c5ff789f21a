#include "cuda/cuda.hpp"

namespace repgeom::cuda {

bool available() { return false; }

}  // namespace repgeom::cuda
