// Arrays at the border: NumPy arrays, and anything with __dlpack__ (torch, JAX, CuPy on the host), are read
// in place. Nothing is converted or copied; what cannot be read as it lies is refused.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "types.hpp"

namespace repgeom::python {

namespace py = pybind11;

struct ArrayView {
    const void* data;
    Dtype dtype;
    std::vector<index_t> shape;
    std::vector<index_t> strides;  // in elements
    py::object owner;              // keeps the memory alive
};

// `name` is what error texts call the array. Throws TypeError or ValueError.
ArrayView read_array(const py::handle& array, const std::string& name);

// A [n, d] array with contiguous rows.
MatrixView as_matrix(const ArrayView& array, const std::string& name);

// A [n] float64 contiguous array.
const double* as_vector(const ArrayView& array, const std::string& name, index_t size);

}  // namespace repgeom::python
