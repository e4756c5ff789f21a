// What bindings of long calls share: names of metrics, and progress that Ctrl-C can stop.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <string>

#include "neighbors.hpp"

namespace repgeom::python {

namespace py = pybind11;

Metric metric_of(const std::string& name);

// A callback for a kernel that runs without the lock: Ctrl-C stops the work, and the caller's own function
// may. `progress` may be None and must outlive the callback.
std::function<void(double)> tell(const py::object& progress);

}  // namespace repgeom::python
