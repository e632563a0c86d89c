// SPDX-License-Identifier: BSD-3-Clause
#include "native/curl/http_client.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <exception>
#include <map>
#include <stdexcept>
#include <utility>

#include "native/posix/close_on_fork.h"
#include "native/posix/process_end.h"

namespace lockstep::native {
namespace {

// A server that is away is found sooner than one that is slow.
constexpr long kConnectMilliseconds = 5000;

struct FreeList {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

/// Connections, which children of the process do not have.
using OpenSockets = std::map<curl_socket_t, std::unique_ptr<CloseOnFork>>;

curl_socket_t open_socket(void* sockets, curlsocktype /*purpose*/, curl_sockaddr* address) {
  const int socket = ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  if (socket < 0) return CURL_SOCKET_BAD;
  try {
    (*static_cast<OpenSockets*>(sockets))[socket] = std::make_unique<CloseOnFork>(socket);
  } catch (const std::exception&) {
    // No memory; a child has it then.
  }
  return socket;
}

int close_socket(void* sockets, curl_socket_t socket) {
  static_cast<OpenSockets*>(sockets)->erase(socket);
  return ::close(socket);
}

std::size_t keep_begin(char* data, std::size_t size, std::size_t count, void* body) {
  auto& kept = *static_cast<std::string*>(body);
  const std::size_t bytes = size * count;
  kept.append(data, std::min(bytes, HttpClient::kMostBody - kept.size()));
  return bytes;
}

}  // namespace

struct HttpClient::State {
  OpenSockets sockets;
  CURLM* multi = nullptr;
  CURL* easy = nullptr;
  bool is_running = false;
  std::unique_ptr<curl_slist, FreeList> headers;
  std::string sent;
  std::string body;
  std::array<char, CURL_ERROR_SIZE> failure{};

  State() = default;
  ~State() {
    if (is_running) curl_multi_remove_handle(multi, easy);
    if (easy != nullptr) curl_easy_cleanup(easy);
    if (multi != nullptr) curl_multi_cleanup(multi);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

HttpClient::HttpClient() : state_(std::make_unique<State>()) {
  // Once a process, in whichever thread comes first.
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (started != CURLE_OK) {
    throw std::runtime_error(std::string("libcurl: ") + curl_easy_strerror(started));
  }
  // OpenSSL has registered its end for `exit`; the threads that post are to be done before.
  ProcessEnd::come_first_at_exit();
  state_->multi = curl_multi_init();
  state_->easy = curl_easy_init();
  if (state_->multi == nullptr || state_->easy == nullptr) {
    throw std::runtime_error("libcurl has no memory");
  }
}

HttpClient::~HttpClient() = default;

bool HttpClient::is_address(const std::string& url) {
  const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> parsed(curl_url(), &curl_url_cleanup);
  if (curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return false;
  char* scheme = nullptr;
  if (curl_url_get(parsed.get(), CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK) return false;
  const std::string name = scheme;
  curl_free(scheme);
  return name == "http" || name == "https";
}

void HttpClient::post(const std::string& url, const std::vector<std::string>& headers,
                      std::string body, std::chrono::milliseconds timeout) {
  cancel();
  auto& own = *state_;
  own.sent = std::move(body);
  own.body.clear();
  own.failure.front() = '\0';
  curl_slist* list = nullptr;
  for (const auto& header : headers) list = curl_slist_append(list, header.c_str());
  // Without this, a server that does not know it costs a second.
  own.headers.reset(curl_slist_append(list, "Expect:"));
  curl_easy_reset(own.easy);  // keeps the connections
  curl_easy_setopt(own.easy, CURLOPT_URL, url.c_str());
  curl_easy_setopt(own.easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(own.easy, CURLOPT_HTTPHEADER, own.headers.get());
  curl_easy_setopt(own.easy, CURLOPT_POSTFIELDS, own.sent.data());
  curl_easy_setopt(own.easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(own.sent.size()));
  curl_easy_setopt(own.easy, CURLOPT_WRITEFUNCTION, keep_begin);
  curl_easy_setopt(own.easy, CURLOPT_WRITEDATA, &own.body);
  curl_easy_setopt(own.easy, CURLOPT_ERRORBUFFER, own.failure.data());
  curl_easy_setopt(own.easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
  curl_easy_setopt(own.easy, CURLOPT_OPENSOCKETDATA, &own.sockets);
  curl_easy_setopt(own.easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
  curl_easy_setopt(own.easy, CURLOPT_CLOSESOCKETDATA, &own.sockets);
  curl_easy_setopt(own.easy, CURLOPT_TIMEOUT_MS, static_cast<long>(timeout.count()));
  curl_easy_setopt(own.easy, CURLOPT_CONNECTTIMEOUT_MS, kConnectMilliseconds);
  curl_easy_setopt(own.easy, CURLOPT_NOSIGNAL, 1L);
  // The resolver's thread is not waited for.
  curl_easy_setopt(own.easy, CURLOPT_QUICK_EXIT, 1L);
  own.is_running = curl_multi_add_handle(own.multi, own.easy) == CURLM_OK;
}

std::optional<HttpClient::Answer> HttpClient::poll() {
  auto& own = *state_;
  Answer answer;
  if (!own.is_running) {
    answer.failure = "libcurl could not begin a request";
    return answer;
  }
  int running = 0;
  curl_multi_perform(own.multi, &running);
  int left = 0;
  const CURLMsg* message = curl_multi_info_read(own.multi, &left);
  if (message == nullptr || message->msg != CURLMSG_DONE) return std::nullopt;
  const CURLcode result = message->data.result;
  long status = 0;
  curl_off_t retry_after = 0;
  curl_easy_getinfo(own.easy, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_getinfo(own.easy, CURLINFO_RETRY_AFTER, &retry_after);
  curl_multi_remove_handle(own.multi, own.easy);
  own.is_running = false;
  if (result != CURLE_OK) {
    answer.failure = own.failure.front() != '\0' ? own.failure.data() : curl_easy_strerror(result);
    return answer;
  }
  answer.status = static_cast<int>(status);
  answer.body = std::move(own.body);
  answer.retry_after = std::chrono::seconds(retry_after);
  return answer;
}

void HttpClient::cancel() {
  if (!state_->is_running) return;
  curl_multi_remove_handle(state_->multi, state_->easy);
  state_->is_running = false;
}

}  // namespace lockstep::native
