// SPDX-License-Identifier: BSD-3-Clause
#include "training/profiler/kineto_recording.h"

#include <ATen/Context.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <set>
#include <utility>

#include "native/posix/owning_process.h"

namespace lockstep::training {
namespace {

namespace kineto = torch::autograd::profiler;
using Activities = std::set<kineto::ActivityType>;

constexpr char kStepName[] = "ProfilerStep#";

/// Kernels need a driver, without which Kineto says that it has failed.
Activities activities() {
  Activities wanted{kineto::ActivityType::CPU};
  if (at::hasCUDA()) wanted.insert(kineto::ActivityType::CUDA);
  return wanted;
}

bool is_step(const kineto::KinetoEvent& event) {
  return event.name().rfind(kStepName, 0) == 0;
}

std::atomic<std::uint64_t>& ended_recordings() {
  static std::atomic<std::uint64_t> count{0};
  return count;
}

KinetoRecording::Result result_of(const std::vector<kineto::KinetoEvent>& events) {
  if (events.empty()) return KinetoRecording::Result::Nothing;
  return std::all_of(events.begin(), events.end(), is_step) ? KinetoRecording::Result::NoOperators
                                                            : KinetoRecording::Result::Operators;
}

}  // namespace

TimeOfDay TimeOfDay::now() {
  using Steady = std::chrono::steady_clock;
  using std::chrono::nanoseconds;
  TimeOfDay result;
  auto shortest = Steady::duration::max();
  // The system may take the processor away between two looks; the shortest of some tries counts.
  for (int i = 0; i < 20; ++i) {
    const auto before = Steady::now();
    const auto day = std::chrono::system_clock::now();
    const auto after = Steady::now();
    if (after - before >= shortest) continue;
    shortest = after - before;
    const auto middle = before + (after - before) / 2;
    result.offset_ = nanoseconds(day.time_since_epoch()).count() -
                     nanoseconds(middle.time_since_epoch()).count();
  }
  return result;
}

struct KinetoRecording::Session {
  kineto::ProfilerConfig config;
  Activities wanted;
  bool is_recording = false;
  std::optional<at::RecordFunction> step;
};

KinetoRecording::KinetoRecording(bool shapes, bool memory) : shapes_(shapes), memory_(memory) {}

KinetoRecording::~KinetoRecording() {
  cancel();
}

void KinetoRecording::prepare() {
  if (session_) return;
  TORCH_CHECK(!kineto::profilerEnabled() && !kineto::isProfilerEnabledInMainThread(),
              "Profiler: another profiler of LibTorch runs in this process, Python's perhaps; "
              "there can be one at a time");
  session_.reset(
      new Session{kineto::ProfilerConfig(kineto::ProfilerState::KINETO, shapes_, memory_),
                  activities(), false, std::nullopt});
  try {
    kineto::prepareProfiler(session_->config, session_->wanted);
  } catch (...) {
    session_.reset();
    throw;
  }
}

void KinetoRecording::start() {
  prepare();
  try {
    kineto::enableProfiler(session_->config, session_->wanted);
  } catch (...) {
    session_.reset();
    throw;
  }
  session_->is_recording = true;
  time_of_day_ = TimeOfDay::now();
  started_at_ = std::chrono::steady_clock::now();
}

bool KinetoRecording::is_recording() const noexcept {
  return session_ && session_->is_recording;
}

void KinetoRecording::begin_step(std::int64_t step) {
  session_->step.emplace(at::RecordScope::USER_SCOPE);
  if (session_->step->isActive()) session_->step->before(kStepName + std::to_string(step));
}

void KinetoRecording::end_step() noexcept {
  if (session_) session_->step.reset();
}

KinetoRecording::Result KinetoRecording::stop(const std::string& path) {
  end_step();
  session_.reset();  // also if what follows throws
  ended_recordings().fetch_add(1, std::memory_order_relaxed);
  const auto profile = kineto::disableProfiler();
  const Result result = result_of(profile->events());
  if (result == Result::Operators) profile->save(path);
  return result;
}

void KinetoRecording::cancel() noexcept {
  if (!session_) return;
  try {
    if (!is_recording()) start();
    end_step();
    session_.reset();
    ended_recordings().fetch_add(1, std::memory_order_relaxed);
    kineto::disableProfiler();
  } catch (...) {  // it has ended, or another one has taken its place
    session_.reset();
  }
}

std::uint64_t KinetoRecording::ended() noexcept {
  return ended_recordings().load(std::memory_order_relaxed);
}

void KinetoRecording::leave() noexcept {
  if (session_) native::leave_alone(std::move(session_));
}

}  // namespace lockstep::training
