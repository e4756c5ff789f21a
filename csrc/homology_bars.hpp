// Bars as users see them: lengths instead of edges, the caller's numbers instead of ours.
#pragma once

#include "homology.hpp"
#include "homology_filtration.hpp"
#include "homology_reducer.hpp"

namespace repgeom {

// Throws nothing but std::bad_alloc. `cocycles` may be null.
RipsDimension present(const Filtration& filtration, const Bars& bars, const Cocycles* cocycles,
                      const RipsOptions& options);

// The components that die, as cocycles of dimension 0: the vertices of each just before its edge.
Cocycles component_cocycles(const Filtration& filtration, const Bars& components);

}  // namespace repgeom
