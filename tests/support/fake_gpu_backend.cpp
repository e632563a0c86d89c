// SPDX-License-Identifier: BSD-3-Clause
// What makes a device of FakeGpu for LibTorch: guard, hooks, allocators and the few operators that
// copies need.
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>
#include <torch/torch.h>

#include <cstring>
#include <stdexcept>
#include <string>

#include "support/fake_gpu.h"

namespace lockstep::testing {
namespace {

thread_local int current_device = 0;
thread_local std::map<int, c10::StreamId> current_streams;

FakeGpu::Key key_of(const c10::Stream& stream) {
  return {stream.device_index(), stream.id()};
}

// As CUDA's: to do something on a device makes it current, and then the one that was before, which
// begins something there.
void visit(int device) {
  auto& gpu = FakeGpu::get();
  for (const int visited : {device, current_device}) {
    if (!gpu.devices_in_use.contains(visited)) {
      gpu.complain("something begins on device " + std::to_string(visited) +
                   ", which is not in use");
    }
    if (device == current_device) return;
  }
}

struct Guard : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kPrivateUse1; }
  c10::Device exchangeDevice(c10::Device device) const override {
    return FakeGpu::device(std::exchange(current_device, device.index()));
  }
  c10::Device getDevice() const override { return FakeGpu::device(current_device); }
  void setDevice(c10::Device device) const override { current_device = device.index(); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current_device = device.index();
  }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::UNSAFE, device, current_streams[device.index()]);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return c10::Stream(c10::Stream::UNSAFE, device, FakeGpu::get().next_of_pool());
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const auto before = getStream(stream.device());
    current_streams[stream.device_index()] = stream.id();
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return FakeGpu::kDevices; }

  void record(void** handle, const c10::Stream& stream, c10::DeviceIndex,
              c10::EventFlag) const override {
    auto& gpu = FakeGpu::get();
    const std::lock_guard lock(gpu.mutex);
    if (gpu.fails_events) throw std::runtime_error("the fake device takes no events");
    visit(stream.device_index());
    ++gpu.events_recorded;
    if (*handle == nullptr) *handle = gpu.create_event();
    const auto event = gpu.event(*handle);
    const auto number = ++event->recorded;
    gpu.push(key_of(stream), {[event, number] {
               event->reached = std::max(event->reached, number);
               return true;
             }});
  }
  void block(void* handle, const c10::Stream& stream) const override {
    auto& gpu = FakeGpu::get();
    const std::lock_guard lock(gpu.mutex);
    visit(stream.device_index());
    const auto event = gpu.event(handle);
    const auto number = event->recorded;
    gpu.push(key_of(stream), {[event, number] { return event->reached >= number; }});
  }
  bool queryEvent(void* handle) const override {
    auto& gpu = FakeGpu::get();
    const std::lock_guard lock(gpu.mutex);
    if (gpu.fails_events) throw std::runtime_error("the fake device takes no events");
    gpu.count_query();
    const auto event = gpu.event(handle);
    return event->reached >= event->recorded;
  }
  void destroyEvent(void* handle, c10::DeviceIndex device) const noexcept override {
    visit(device);
    FakeGpu::get().destroy_event(handle);
  }
  void synchronizeEvent(void*) const override {
    FakeGpu::get().complain("the host waits for an event");
  }
  void synchronizeStream(const c10::Stream&) const override {
    FakeGpu::get().complain("the host waits for a stream");
  }
  void synchronizeDevice(c10::DeviceIndex) const override {
    FakeGpu::get().complain("the host waits for a device");
  }
  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const override {
    if (data.get() == nullptr) return;
    FakeGpu::get().record_use(static_cast<FakeGpu::Block*>(data.get_context()), key_of(stream));
  }
};

struct PinnedMemory : c10::Allocator {
  c10::DataPtr allocate(std::size_t bytes) override {
    void* data = bytes == 0 ? nullptr : FakeGpu::get().allocate_pinned(bytes);
    return {data, data, &release, c10::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* target, const void* source, std::size_t bytes) const override {
    std::memcpy(target, source, bytes);
  }
  static void release(void* data) {
    if (data != nullptr) FakeGpu::get().free_pinned(data);
  }
};

struct DeviceMemory : c10::Allocator {
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes == 0) return {nullptr, FakeGpu::device(current_device)};
    auto* block = FakeGpu::get().allocate(bytes);
    return {block->data, block, &release, FakeGpu::device(current_device)};
  }
  void copy_data(void* target, const void* source, std::size_t bytes) const override {
    std::memcpy(target, source, bytes);
  }
  static void release(void* block) { FakeGpu::get().free(static_cast<FakeGpu::Block*>(block)); }
};

PinnedMemory pinned_memory;
DeviceMemory device_memory;

struct Hooks : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex index) const override {
    return FakeGpu::get().devices_in_use.contains(index);
  }
  c10::DeviceIndex deviceCount() const override { return FakeGpu::kDevices; }
  bool isPinnedPtr(const void* data) const override { return FakeGpu::get().is_pinned(data); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
};

at::Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(*device);
  return at::Tensor(at::detail::empty_generic(sizes, &device_memory,
                                              c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                              dtype.value_or(at::kFloat), format));
}

at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(*device);
  return at::Tensor(at::detail::empty_strided_generic(
      sizes, strides, &device_memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      dtype.value_or(at::kFloat)));
}

at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target, bool non_blocking) {
  auto& gpu = FakeGpu::get();
  TORCH_CHECK(source.scalar_type() == target.scalar_type() && target.is_contiguous(),
              "the fake device copies bytes only");
  if (target.is_cpu() && non_blocking && gpu.is_pinned(target.const_data_ptr())) {
    const auto values = source.contiguous();
    const c10::DeviceGuard guard(source.device());
    const std::lock_guard lock(gpu.mutex);
    gpu.push(key_of(FakeGpu::current()), {[target, from = values.const_data_ptr()] {
               std::memcpy(target.mutable_data_ptr(), from, target.nbytes());
               return true;
             }});
    return target;
  }
  if (target.is_cpu()) {
    gpu.run_all();
    std::memcpy(target.mutable_data_ptr(), source.const_data_ptr(), target.nbytes());
    return target;
  }
  if (target.nbytes() == 0) return target;
  TORCH_CHECK(source.is_cpu(), "the fake device copies from the CPU only");
  const auto data = source.contiguous();
  const c10::DeviceGuard guard(target.device());
  if (!gpu.is_pinned(data.const_data_ptr())) {
    // Staged before the call returns, as the CUDA driver does.
    auto staged = std::make_shared<at::Tensor>(data.clone());
    gpu.copy_in(target.mutable_data_ptr(), staged->const_data_ptr(), target.nbytes(), staged);
  } else {
    const bool is_kept = gpu.is_own_pinned(data.const_data_ptr());
    gpu.copy_in(target.mutable_data_ptr(), data.const_data_ptr(), target.nbytes(),
                is_kept ? std::make_shared<at::Tensor>(data) : nullptr);
  }
  if (!non_blocking) gpu.run_all();
  return target;
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
}

}  // namespace

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

FakeGpu& FakeGpu::get() {
  // Never destroyed: what LibTorch keeps of it may be asked at the very end.
  static auto* gpu = [] {
    c10::register_privateuse1_backend("fake");  // LibTorch asks it before any other
    at::RegisterPrivateUse1HooksInterface(new Hooks);
    return new FakeGpu;
  }();
  return *gpu;
}

c10::Stream FakeGpu::current() {
  return Guard().getStream(device(current_device));
}

}  // namespace lockstep::testing
