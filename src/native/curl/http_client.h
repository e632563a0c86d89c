// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::native {

/// Posts to a server by HTTP or HTTPS, one request at a time. No call waits: whoever posts asks
/// until there is an answer. Connections are used again.
///
/// Thread-safety: one thread at a time.
class HttpClient {
 public:
  /// More of an answer's body is not kept.
  static constexpr std::size_t kMostBody = std::size_t{64} << 10;

  struct Answer {
    int status = 0;                       ///< 0: there was no answer, `failure` says why
    std::string body;                     ///< its begin, `kMostBody` bytes at most
    std::string failure;                  ///< in words
    std::chrono::seconds retry_after{0};  ///< as the server has asked; 0: it has not
  };

  /// Throws: `std::runtime_error` when libcurl cannot be set up.
  HttpClient();
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// Whether this is an address that a request can go to: `http://` or `https://` and a host.
  [[nodiscard]] static bool is_address(const std::string& url);

  /// Begins a request. The one before has had its answer. `headers`: "Name: value".
  void post(const std::string& url, const std::vector<std::string>& headers, std::string body,
            std::chrono::milliseconds timeout);
  /// Does what can be done now. Nothing: there is no answer yet.
  [[nodiscard]] std::optional<Answer> poll();
  /// Gives up the request, if there is one.
  void cancel();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lockstep::native
