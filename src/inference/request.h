// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/inference/answer.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>

#include "inference/request_owner.h"

namespace lockstep::inference::detail {

/// A request on its way, as the program's process knows it. It is settled once: by an answer, an
/// error, or because it was taken back. Until then it has its slot.
///
/// Thread-safety: any thread. The one that waits settles it, or one that needs room.
class Request {
 public:
  Request(std::shared_ptr<RequestOwner> owner, std::size_t slot, std::uint64_t number);
  ~Request();
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  /// Whether it was settled. Blocks: at most until then, a time of `now_ns`.
  [[nodiscard]] bool wait_until(std::uint64_t end);
  /// The answer of a settled request. The program's own combination runs here, once; one thread at
  /// a time. Throws: the error.
  [[nodiscard]] Answer answer();
  /// Takes the outputs out of the slot, if all are there; whether the request is settled.
  bool try_settle();
  void cancel() noexcept;
  [[nodiscard]] std::uint64_t number() const noexcept { return number_; }

 private:
  std::shared_ptr<RequestOwner> owner_;
  std::size_t slot_;
  std::uint64_t number_;
  std::mutex settling_;  // guards the outputs and the error until is_settled_
  std::atomic<bool> is_settled_{false};
  std::optional<Outputs> outputs_;
  std::exception_ptr error_;
};

}  // namespace lockstep::inference::detail
