// Which instruction sets this machine has, and the kernel table of each.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tile_kernels.hpp"
#include "types.hpp"

namespace repgeom {

// Kernel tables that run here, slowest first. The last one is the default.
const std::vector<const KernelTable*>& available_kernels();

// The table called `name`; the fastest one for an empty name. Throws for a name that does not run here.
const KernelTable& kernels(std::string_view name);

}  // namespace repgeom
