#include "eigensolver_tiles_impl.hpp"

namespace repgeom {

constinit const BlockTiles avx512_tiles = make_tiles<64, 8, 3>("avx512");

}  // namespace repgeom
