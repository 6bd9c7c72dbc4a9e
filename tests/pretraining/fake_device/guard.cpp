// What autograd asks of a device: one device of the type "cuda", without streams.
#include <ATen/DeviceAccelerator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <cstring>

// Loaded before torch, this stands for torch's own function of the same name.
namespace at::accelerator {

std::optional<c10::DeviceType> getAccelerator(bool) {
  return c10::DeviceType::CUDA;
}

} // namespace at::accelerator

namespace {

struct FakeHooks final : public at::CUDAHooksInterface {
  void init() const override {}
  bool hasCUDA() const override {
    return true;
  }
  bool hasPrimaryContext(at::DeviceIndex) const override {
    return true;
  }
  at::DeviceIndex deviceCount() const override {
    return 1;
  }
  at::DeviceIndex getCurrentDevice() const override {
    return 0;
  }
};

// Torch makes its own hooks, for want of a GPU, when it is loaded: give them the
// functions of these, which have no data.
struct Replace {
  Replace() {
    static const FakeHooks fake;
    auto* own = const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks());
    std::memcpy(static_cast<void*>(own), &fake, sizeof(void*));
  }
} replace;

using c10::Device;
using c10::DeviceType;
using c10::Stream;

const Device gpu(DeviceType::CUDA, 0);

struct FakeGuard final : public c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device exchangeDevice(Device) const override {
    return gpu;
  }
  Device getDevice() const override {
    return gpu;
  }
  Stream getStream(Device) const noexcept override {
    return Stream(Stream::DEFAULT, gpu);
  }
  Stream getDefaultStream(Device) const override {
    return Stream(Stream::DEFAULT, gpu);
  }
  Stream exchangeStream(Stream) const noexcept override {
    return Stream(Stream::DEFAULT, gpu);
  }
  // The engine lets streams wait for each other.
  void record(void**, const Stream&, const c10::DeviceIndex, const c10::EventFlag)
      const override {}
  void block(void*, const Stream&) const override {}
};

C10_REGISTER_GUARD_IMPL(CUDA, FakeGuard);

} // namespace
