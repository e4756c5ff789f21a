#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "random.hpp"
#include "types.hpp"

namespace repgeom::python {

namespace py = pybind11;

void bind_random(py::module_& module) {
    module.def(
        "random_bits",
        [](std::uint64_t seed, std::uint64_t stream, std::uint64_t start, index_t count) {
            require(count >= 0, "count must not be negative", count);
            py::array_t<std::uint64_t> out(count);
            std::uint64_t* bits = out.mutable_data();
            const py::gil_scoped_release release;
            for (index_t i = 0; i < count; ++i)
                bits[i] = repgeom::random_bits(seed, stream, start + static_cast<std::uint64_t>(i));
            return out;
        },
        py::arg("seed"), py::arg("stream"), py::arg("start"), py::arg("count"),
        "64 random bits (Philox4x32-10) for each index start, start + 1, ... of a stream.");
}

}  // namespace repgeom::python
