#include "eigensolver_tiles.hpp"

#include <string_view>

namespace repgeom {

const BlockTiles& block_tiles(const KernelTable& table) {
#if defined(__x86_64__)
    for (const BlockTiles* tiles : {&avx2_tiles, &avx512_tiles})
        if (std::string_view(tiles->name) == table.name) return *tiles;
#endif
    static_cast<void>(table);
    return baseline_tiles;
}

}  // namespace repgeom
