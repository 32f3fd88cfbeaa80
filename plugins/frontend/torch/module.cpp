/* The Python module thrum_torch._C; the package around it is in thrum_torch/. */
#include "backend.h"

#include <pybind11/chrono.h>
#include <torch/csrc/utils/pybind.h>

namespace
{

using namespace thrum_torch;

c10::intrusive_ptr<BackendBase> create(const StoreRef &store, int rank, int size,
                                       std::chrono::duration<double> timeout,
                                       const std::string &name, std::vector<int64_t> global_ranks)
{
    return c10::make_intrusive<ProcessGroup>(store, rank, size,
                                             std::chrono::duration_cast<Milliseconds>(timeout),
                                             name, std::move(global_ranks));
}

void shut_down(std::chrono::duration<double> grace)
{
    Inbox::stop_all();
    Lane::close_all(std::chrono::duration_cast<Milliseconds>(grace));
}

} // namespace

PYBIND11_MODULE(_C, module)
{
    using release = py::call_guard<py::gil_scoped_release>;

    module.def("create", &create, release());
    module.def("shut_down", &shut_down, release());
    module.def("launched", &launched, release());
    module.def("spread", &spread, release());
    module.def("library_version", &thrum_version);
}
