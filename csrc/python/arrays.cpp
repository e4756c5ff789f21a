#include "arrays.hpp"

namespace repgeom::python {

namespace {

// The structures of DLPack (version 0.x, which every exporter still offers), as its specification lays them
// out.
struct DLDevice {
    std::int32_t device_type;
    std::int32_t device_id;
};

struct DLDataType {
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
};

struct DLTensor {
    void* data;
    DLDevice device;
    std::int32_t ndim;
    DLDataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;
    std::uint64_t byte_offset;
};

constexpr std::uint8_t dl_float = 2, dl_bfloat = 4;

std::string supported() { return " must be float64, float32, float16 or bfloat16"; }

Dtype dtype_of(const DLDataType& type, const std::string& name) {
    const bool floating = type.code == dl_float;
    if (type.lanes == 1) {
        if (floating && type.bits == 64) return Dtype::float64;
        if (floating && type.bits == 32) return Dtype::float32;
        if (floating && type.bits == 16) return Dtype::float16;
        if (type.code == dl_bfloat && type.bits == 16) return Dtype::bfloat16;
    }
    throw py::type_error(name + supported() + ", got DLPack type code " + std::to_string(type.code) + " of " +
                         std::to_string(type.bits) + " bits");
}

Dtype dtype_of(const py::dtype& type, const std::string& name) {
    const std::string text = py::str(type.attr("name"));
    const bool native = type.attr("isnative").cast<bool>();
    if (native && text == "float64") return Dtype::float64;
    if (native && text == "float32") return Dtype::float32;
    if (native && text == "float16") return Dtype::float16;
    if (native && text == "bfloat16") return Dtype::bfloat16;  // as ml_dtypes registers it
    throw py::type_error(name + supported() + " in native byte order, got " + std::string(py::str(type)));
}

ArrayView read_numpy(const py::array& array, const std::string& name) {
    ArrayView view{array.data(), dtype_of(array.dtype(), name), {}, {}, array};
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
        view.shape.push_back(array.shape(axis));
        require(array.strides(axis) % array.itemsize() == 0, name + " must have strides of whole elements",
                array.strides(axis));
        view.strides.push_back(array.strides(axis) / array.itemsize());
    }
    return view;
}

void require_host(const py::handle& array, const std::string& name) {
    constexpr int cpu = 1, cuda_host = 3;
    const py::tuple device = array.attr("__dlpack_device__")();
    const int type = py::int_(device[0]);
    require(type == cpu || type == cuda_host, name + " must be in host memory (DLPack device type 1 or 3)",
            type);
}

ArrayView read_dlpack(const py::handle& array, const std::string& name) {
    require_host(array, name);
    const py::capsule capsule = array.attr("__dlpack__")();
    // The DLTensor is the first member of the managed tensor. The capsule, not being renamed, frees it.
    const auto* tensor = static_cast<const DLTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    if (tensor == nullptr) throw py::error_already_set();
    ArrayView view{static_cast<const std::byte*>(tensor->data) + tensor->byte_offset,
                   dtype_of(tensor->dtype, name),
                   {tensor->shape, tensor->shape + tensor->ndim},
                   {},
                   capsule};
    view.strides.resize(view.shape.size());
    index_t compact = 1;
    for (std::size_t axis = view.shape.size(); axis-- > 0; compact *= view.shape[axis])
        view.strides[axis] = tensor->strides == nullptr ? compact : tensor->strides[axis];
    return view;
}

}  // namespace

ArrayView read_array(const py::handle& array, const std::string& name) {
    if (py::isinstance<py::array>(array)) return read_numpy(py::reinterpret_borrow<py::array>(array), name);
    if (py::hasattr(array, "__dlpack__")) return read_dlpack(array, name);
    throw py::type_error(name +
                         " must be a NumPy array, a torch tensor or another array with __dlpack__, got " +
                         std::string(py::str(py::type::of(array).attr("__name__"))));
}

MatrixView as_matrix(const ArrayView& array, const std::string& name) {
    require(array.shape.size() == 2, name + " must have 2 dimensions [n, d]", array.shape.size());
    const index_t rows = array.shape[0], columns = array.shape[1];
    require(rows == 0 || columns <= 1 || array.strides[1] == 1,
            name + " must have contiguous rows (stride 1 within a row; numpy.ascontiguousarray copies)",
            array.strides[1]);
    return {array.data, array.dtype, rows, columns, array.strides[0]};
}

const double* as_vector(const ArrayView& array, const std::string& name, index_t size) {
    require(array.shape.size() == 1, name + " must have 1 dimension", array.shape.size());
    require(array.shape[0] == size, name + " must have " + std::to_string(size) + " elements",
            array.shape[0]);
    require(array.dtype == Dtype::float64, name + " must be float64", "another type");
    require(size <= 1 || array.strides[0] == 1, name + " must be contiguous (stride 1)", array.strides[0]);
    return static_cast<const double*>(array.data);
}

}  // namespace repgeom::python
