// What the machine offers: instruction sets, threads, CUDA, and the floor that benchmarks compare with.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu_dispatch.hpp"
#include "cuda/cuda.hpp"
#include "parallel.hpp"

namespace repgeom::python {

namespace py = pybind11;

void bind_machine(py::module_& module) {
    module.def(
        "instruction_sets",
        [] {
            std::vector<std::string> names;
            for (const KernelTable* table : available_kernels()) names.emplace_back(table->name);
            return names;
        },
        "Instruction sets that run here, the default last.");
    module.def("default_threads", &default_threads, "Threads used when none are asked for.");
    module.def("cuda_available", &cuda::available,
               "Whether this build has CUDA kernels and a device for them.");
    module.def(
        "multiply_add_loop",
        [](index_t iterations, const std::string& instruction_set) {
            const KernelTable& table = kernels(instruction_set);
            const py::gil_scoped_release release;
            return table.multiply_add_loop(iterations);
        },
        py::arg("iterations"), py::arg("instruction_set") = "",
        "Runs fp32 multiply-adds in registers on the calling thread; returns the flops done.");
}

}  // namespace repgeom::python
