// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "native/posix/tcp_socket.h"

namespace lockstep::native {

/// Asks the system's resolver for the addresses of a host, and does not wait for the answer: a
/// thread of the system does.
///
/// Thread-safety: one thread at a time.
class NameLookup {
 public:
  struct Answer {
    std::vector<TcpAddress> addresses;  ///< empty: `failure` says why
    std::string failure;
  };

  /// `service`: a port, as a number.
  NameLookup(const std::string& host, const std::string& service);
  ~NameLookup();
  NameLookup(const NameLookup&) = delete;
  NameLookup& operator=(const NameLookup&) = delete;

  /// Nothing: the answer has not come.
  [[nodiscard]] std::optional<Answer> poll();

 private:
  struct Request;
  std::unique_ptr<Request> request_;
};

}  // namespace lockstep::native
