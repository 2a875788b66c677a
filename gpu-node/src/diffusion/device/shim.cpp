// What tch does not reach: libtorch's numerical choices and the memory of an accelerator. Everything here is the
// device-independent interface of libtorch, so one source serves builds with and without CUDA. No exception leaves it:
// a failure is a status other than 0.

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>

namespace {

bool has_accelerator(std::int64_t index) {
  return at::getAccelerator(false).has_value() && index >= 0 && index < at::accelerator::deviceCount();
}

}  // namespace

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

extern "C" int bildkante_memory(std::int64_t index, std::uint64_t* free_bytes, std::uint64_t* total_bytes,
                                std::uint64_t* peak_bytes) noexcept {
  try {
    if (!has_accelerator(index)) return 1;
    const auto device = static_cast<c10::DeviceIndex>(index);
    const auto [free, total] = at::accelerator::getMemoryInfo(device);
    const auto stats = at::accelerator::getDeviceStats(device);
    constexpr auto all = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    // What the allocator holds and nobody uses is as good as free.
    const auto idle = stats.reserved_bytes[all].current - stats.allocated_bytes[all].current;
    *free_bytes = free + static_cast<std::uint64_t>(idle > 0 ? idle : 0);
    *total_bytes = total;
    *peak_bytes = static_cast<std::uint64_t>(stats.allocated_bytes[all].peak);
    return 0;
  } catch (...) {
    return 2;
  }
}

// Waits until a device has done what it was given. What it failed at meanwhile goes to `reason`, ended by a zero.
extern "C" int bildkante_wait(std::int64_t index, char* reason, std::size_t bytes) noexcept {
  const auto say = [&](const char* text) {
    if (bytes == 0) return;
    std::strncpy(reason, text, bytes - 1);
    reason[bytes - 1] = '\0';
  };
  try {
    if (!has_accelerator(index)) {
      say("no such device");
      return 1;
    }
    at::accelerator::synchronizeDevice(static_cast<c10::DeviceIndex>(index));
    return 0;
  } catch (const c10::Error& error) {
    say(error.what_without_backtrace());
    return 2;
  } catch (const std::exception& error) {
    say(error.what());
    return 2;
  } catch (...) {
    say("the device failed");
    return 2;
  }
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
