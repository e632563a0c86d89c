// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

namespace lockstep::native {

/// The calls on streams and events that an asynchronous backend needs, so that tests can put
/// themselves in the place of the GPU.
///
/// Throws: `std::runtime_error` when the device says no. Thread-safety: any thread.
class DeviceApi {
 public:
  using Stream = void*;
  using Event = void*;
  virtual ~DeviceApi() = default;

  /// Returns the device that was current before, for the calling thread.
  virtual int make_current(int device) = 0;
  /// Makes a device current again that `make_current` returned. Begins nothing on it: a thread that
  /// never used a device must not take memory there.
  virtual void restore(int device) = 0;
  [[nodiscard]] virtual int current_device() = 0;
  /// The calling thread's current stream of that device.
  [[nodiscard]] virtual Stream current_stream(int device) = 0;
  /// A stream of the greatest priority that the legacy default stream does not hold up.
  [[nodiscard]] virtual Stream create_stream(int device) = 0;
  /// What is enqueued there still runs.
  virtual void destroy_stream(Stream stream) noexcept = 0;
  /// The compute capability of the device, as 90 for 9.0.
  [[nodiscard]] virtual int compute_capability(int device) = 0;

  /// An event that orders work and measures no time.
  [[nodiscard]] virtual Event create_event(int device) = 0;
  virtual void destroy_event(Event event) noexcept = 0;
  virtual void record(Event event, Stream stream) = 0;
  /// What is enqueued on `stream` from now on waits for `event`; the host does not.
  virtual void make_wait(Stream stream, Event event) = 0;
  [[nodiscard]] virtual bool is_done(Event event) = 0;

  /// Whether what is enqueued on `stream` goes into a graph instead of running.
  [[nodiscard]] virtual bool is_capturing(Stream stream) = 0;
  /// From now on, no call of this thread spoils a capture of another thread, in whatever mode that
  /// one captures.
  virtual void allow_captures() = 0;

  // These are enqueued on `stream`.
  virtual void zero(void* data, std::size_t bytes, Stream stream) = 0;
  virtual void copy(void* target, const void* source, std::size_t bytes, Stream stream) = 0;
};

/// Makes a device current for a scope.
class DeviceScope {
 public:
  DeviceScope(DeviceApi& api, int device) : api_(api), before_(api.make_current(device)) {}
  ~DeviceScope() {
    try {
      api_.restore(before_);
    } catch (...) {  // it was current a moment ago
    }
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  DeviceApi& api_;
  int before_;
};

/// One event of a device.
class DeviceEvent {
 public:
  DeviceEvent(std::shared_ptr<DeviceApi> api, int device)
      : api_(std::move(api)), event_(api_->create_event(device)) {}
  ~DeviceEvent() { api_->destroy_event(event_); }
  DeviceEvent(const DeviceEvent&) = delete;
  DeviceEvent& operator=(const DeviceEvent&) = delete;

  void record(DeviceApi::Stream stream) { api_->record(event_, stream); }
  void block(DeviceApi::Stream stream) { api_->make_wait(stream, event_); }
  [[nodiscard]] bool is_done() const { return api_->is_done(event_); }

 private:
  std::shared_ptr<DeviceApi> api_;
  DeviceApi::Event event_;
};

/// A stream that nobody else uses. LibTorch may hand a stream of its pool to several users.
class CommunicationStream {
 public:
  CommunicationStream(std::shared_ptr<DeviceApi> api, int device)
      : api_(std::move(api)), stream_(api_->create_stream(device)) {}
  ~CommunicationStream() { api_->destroy_stream(stream_); }
  CommunicationStream(const CommunicationStream&) = delete;
  CommunicationStream& operator=(const CommunicationStream&) = delete;

  [[nodiscard]] DeviceApi::Stream get() const noexcept { return stream_; }

 private:
  std::shared_ptr<DeviceApi> api_;
  DeviceApi::Stream stream_;
};

}  // namespace lockstep::native
