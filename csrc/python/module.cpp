// A table of contents.
#include <pybind11/pybind11.h>

namespace repgeom::python {

void bind_machine(pybind11::module_& module);
void bind_random(pybind11::module_& module);
void bind_covariance(pybind11::module_& module);
void bind_eigensolver(pybind11::module_& module);
void bind_neighbors(pybind11::module_& module);
void bind_homology(pybind11::module_& module);

}  // namespace repgeom::python

PYBIND11_MODULE(_core, module) {
    module.doc() = "The native core of repgeom. Private: use the functions of repgeom.";
    repgeom::python::bind_machine(module);
    repgeom::python::bind_random(module);
    repgeom::python::bind_covariance(module);
    repgeom::python::bind_eigensolver(module);
    repgeom::python::bind_neighbors(module);
    repgeom::python::bind_homology(module);
}
