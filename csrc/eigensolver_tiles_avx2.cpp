#include "eigensolver_tiles_impl.hpp"

namespace repgeom {

constinit const BlockTiles avx2_tiles = make_tiles<32, 4, 3>("avx2");

}  // namespace repgeom
