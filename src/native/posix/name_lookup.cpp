// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/name_lookup.h"

#include <netdb.h>
#include <sys/socket.h>

#include <array>

#include "native/posix/owning_process.h"

namespace lockstep::native {

struct NameLookup::Request {
  std::string host;
  std::string service;
  addrinfo hints{};
  gaicb call{};
  int started = 0;
};

NameLookup::NameLookup(const std::string& host, const std::string& service)
    : request_(std::make_unique<Request>()) {
  request_->host = host;
  request_->service = service;
  // One entry an address, not one a kind of socket.
  request_->hints.ai_socktype = SOCK_DGRAM;
  request_->call.ar_name = request_->host.c_str();
  request_->call.ar_service = request_->service.c_str();
  request_->call.ar_request = &request_->hints;
  std::array<gaicb*, 1> calls{&request_->call};
  request_->started = ::getaddrinfo_a(GAI_NOWAIT, calls.data(), 1, nullptr);
}

NameLookup::~NameLookup() {
  if (request_->started == 0) {
    ::gai_cancel(&request_->call);
    // The system's thread still writes there.
    if (::gai_error(&request_->call) == EAI_INPROGRESS) {
      leave_alone(std::move(request_));
      return;
    }
  }
  if (request_->call.ar_result != nullptr) ::freeaddrinfo(request_->call.ar_result);
}

std::optional<NameLookup::Answer> NameLookup::poll() {
  const int state = request_->started != 0 ? request_->started : ::gai_error(&request_->call);
  if (state == EAI_INPROGRESS) return std::nullopt;
  Answer answer;
  if (state != 0) {
    answer.failure = request_->host + ": " + ::gai_strerror(state);
    return answer;
  }
  for (const auto* one = request_->call.ar_result; one != nullptr; one = one->ai_next) {
    if (one->ai_family != AF_INET && one->ai_family != AF_INET6) continue;
    answer.addresses.push_back(from_sockaddr(*one->ai_addr));
  }
  if (answer.addresses.empty()) answer.failure = request_->host + ": it has no address";
  return answer;
}

}  // namespace lockstep::native
