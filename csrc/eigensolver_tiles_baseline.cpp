#include "eigensolver_tiles_impl.hpp"

namespace repgeom {

constinit const BlockTiles baseline_tiles = make_tiles<16, 2, 4>("baseline");

}  // namespace repgeom
