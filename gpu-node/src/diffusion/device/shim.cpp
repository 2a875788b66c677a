// What tch does not reach: libtorch's numerical choices; an accelerator's memory and name, waiting for it and uploading to it.
// Everything here is the device-independent interface of libtorch (and what the driver is asked by name), so one
// source serves builds with and without CUDA. No exception leaves it: a failure is a status other than 0, or no tensor.

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/record_function.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <string_view>

namespace {

bool has_accelerator(std::int64_t index) {
  return at::getAccelerator(false).has_value() && index >= 0 && index < at::accelerator::deviceCount();
}

// Text for a caller who gave room for so many bytes, ended by a zero.
void say(const char* text, char* reason, std::size_t bytes) {
  if (bytes == 0) return;
  std::strncpy(reason, text, bytes - 1);
  reason[bytes - 1] = '\0';
}

// Whether `work` was done; why not goes to `reason`.
template <typename Work>
bool attempt(Work work, char* reason, std::size_t bytes) noexcept {
  try {
    work();
    return true;
  } catch (const c10::Error& error) {
    say(error.what_without_backtrace(), reason, bytes);
  } catch (const std::exception& error) {
    say(error.what(), reason, bytes);
  } catch (...) {
    say("the device failed", reason, bytes);
  }
  return false;
}

thread_local std::uint64_t host_waits = 0;

// A value that is read, a shape that depends on values, a copy from device to device that blocks.
std::unique_ptr<at::ObserverContext> count_wait(const at::RecordFunction& call) {
  constexpr std::array<std::string_view, 5> asking = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero",
                                                      "aten::nonzero", "aten::masked_select"};
  const std::string_view name = call.name();
  if (std::find(asking.begin(), asking.end(), name) != asking.end()) {
    ++host_waits;
  } else if (name == "aten::copy_") {
    const auto inputs = call.inputs();
    const bool blocks = inputs.size() == 3 && inputs[0].isTensor() && inputs[1].isTensor() && inputs[2].isBool() &&
                        inputs[0].toTensor().device() != inputs[1].toTensor().device() && !inputs[2].toBool();
    if (blocks) ++host_waits;
  }
  return nullptr;
}

}  // namespace

// Counts what this thread does from here on that makes the host wait for a device, or would if the tensors were on one.
// Returns what ends it, or 0.
extern "C" std::uint64_t bildkante_count_waits() noexcept {
  try {
    host_waits = 0;
    auto callback = at::RecordFunctionCallback(count_wait).needsInputs(true);
    return at::addThreadLocalCallback(callback.scopes({at::RecordScope::FUNCTION}));
  } catch (...) {
    return 0;
  }
}

extern "C" std::uint64_t bildkante_counted_waits(std::uint64_t counting) noexcept {
  try {
    at::removeCallback(counting);
  } catch (...) {
  }
  return host_waits;
}

extern "C" int bildkante_choose_numerics(bool is_exact, bool allows_tf32) noexcept {
  try {
    auto& context = at::globalContext();
    // Measuring which kernel is fastest chooses another one on another day.
    context.setBenchmarkCuDNN(false);
    context.setDeterministicCuDNN(is_exact);
    // Flash and memory-efficient attention repeat themselves forwards; cuDNN's promises nothing.
    context.setSDPUseCuDNN(!is_exact);
    context.setAllowTF32CuBLAS(allows_tf32);
    context.setAllowTF32CuDNN(allows_tf32);
    return 0;
  } catch (...) {
    return 1;
  }
}

// What libtorch's own kernels and MKL chose on the processor: the former's instruction set, the latter's reproducibility mode
// with its flags (mkl_cbwr_get of all), asked of the library of it that is loaded.
extern "C" int bildkante_cpu_choices(char* text, std::size_t bytes) noexcept {
  try {
    const auto get = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "mkl_serv_cbwr_get"));
    const std::string mkl = get == nullptr ? "none" : std::to_string(get(-1));
    say(("aten-" + at::get_cpu_capability() + "+mkl-" + mkl).c_str(), text, bytes);
    return 0;
  } catch (...) {
    return 1;
  }
}

// The versions of CUDA's runtime and of cuDNN that are loaded; what cannot be told is 0.
extern "C" int bildkante_cuda_versions(std::int64_t* runtime, std::int64_t* cudnn) noexcept {
  *runtime = 0;
  *cudnn = 0;
  try {
    const auto& hooks = at::detail::getCUDAHooks();
    if (!hooks.hasCUDA()) return 1;
    *runtime = hooks.versionCUDART();
    *cudnn = hooks.versionRuntimeCuDNN();
    return 0;
  } catch (...) {
    return 2;
  }
}

extern "C" int bildkante_memory(std::int64_t index, std::uint64_t* free_bytes, std::uint64_t* total_bytes,
                                std::uint64_t* peak_bytes) noexcept {
  try {
    if (!has_accelerator(index)) return 1;
    const auto device = static_cast<c10::DeviceIndex>(index);
    const auto [free, total] = at::accelerator::getMemoryInfo(device);
    const auto stats = at::accelerator::getDeviceStats(device);
    constexpr auto all = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    // What the allocator holds without using it is as good as free.
    const auto idle = stats.reserved_bytes[all].current - stats.allocated_bytes[all].current;
    *free_bytes = free + static_cast<std::uint64_t>(idle > 0 ? idle : 0);
    *total_bytes = total;
    *peak_bytes = static_cast<std::uint64_t>(stats.allocated_bytes[all].peak);
    return 0;
  } catch (...) {
    return 2;
  }
}

// Waits until a device has done what it was given. What it failed at meanwhile goes to `reason`.
extern "C" int bildkante_wait(std::int64_t index, char* reason, std::size_t bytes) noexcept {
  const auto wait = [&] {
    TORCH_CHECK(has_accelerator(index), "no such device");
    at::accelerator::synchronizeDevice(static_cast<c10::DeviceIndex>(index));
  };
  return attempt(wait, reason, bytes) ? 0 : 1;
}

// A tensor's copy on a device, queued behind what the device does: the host goes on. It is read from page-locked memory, which
// libtorch keeps until it has been read. Null where it fails.
extern "C" at::Tensor* bildkante_upload(const at::Tensor* tensor, std::int64_t index, char* reason,
                                        std::size_t bytes) noexcept {
  at::Tensor* uploaded = nullptr;
  const auto upload = [&] {
    TORCH_CHECK(has_accelerator(index), "no such device");
    const at::Device device(at::getAccelerator(true).value(), static_cast<c10::DeviceIndex>(index));
    uploaded = new at::Tensor(tensor->pin_memory().to(tensor->options().device(device), /*non_blocking=*/true));
  };
  attempt(upload, reason, bytes);
  return uploaded;
}

// What a CUDA device is called. libtorch does not say without CUDA's own headers; the driver does, and counts as libtorch does.
extern "C" int bildkante_device_name(std::int64_t index, char* name, std::size_t bytes) noexcept {
  try {
    if (!has_accelerator(index) || at::getAccelerator(false) != at::kCUDA || bytes == 0) return 1;
    void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver == nullptr) return 2;
    const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
    const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
    const auto get_name = reinterpret_cast<int (*)(char*, int, int)>(dlsym(driver, "cuDeviceGetName"));
    int device = 0;
    const bool is_told = init != nullptr && get != nullptr && get_name != nullptr && init(0) == 0 &&
                         get(&device, static_cast<int>(index)) == 0 &&
                         get_name(name, static_cast<int>(bytes), device) == 0;
    dlclose(driver);
    return is_told ? 0 : 2;
  } catch (...) {
    return 2;
  }
}

extern "C" int bildkante_give_back_memory() noexcept {
  try {
    if (at::getAccelerator(false).has_value()) at::accelerator::emptyCache();
    return 0;
  } catch (...) {
    return 1;
  }
}
