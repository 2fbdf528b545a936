package aws_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestSTS asks for a role by a POST, which only its caller knows to be safe.
func TestSTS(t *testing.T) {
	bed.Run(t, bed.SDK{
		Name: "AssumeRole", Answer: "assumed", Busy: "Throttling", Missing: "NoSuchEntity",
		Body: []byte("Action=AssumeRole&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Freader" +
			"&RoleSessionName=session&Version=2011-06-15"),
		Call: func(
			t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
		) (string, error) {
			client := sts.New(sts.Options{
				Region: "eu-central-1", BaseEndpoint: aws.String(url), Credentials: credentials(),
				HTTPClient: &http.Client{Transport: base}, Retryer: retryer(own),
			})
			out, err := client.AssumeRole(ctx, &sts.AssumeRoleInput{
				RoleArn:         aws.String("arn:aws:iam::123456789012:role/reader"),
				RoleSessionName: aws.String("session"),
			})
			if err != nil {
				return "", err
			}
			return aws.ToString(out.Credentials.AccessKeyId), nil
		},
		Serve: func(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
			w.Header().Set("X-Amzn-Requestid", "REQUEST")
			w.Header().Set("Content-Type", "text/xml")
			if f == nil {
				fmt.Fprint(w, `<AssumeRoleResponse><AssumeRoleResult><Credentials>`+
					`<AccessKeyId>assumed</AccessKeyId>`+
					`</Credentials></AssumeRoleResult></AssumeRoleResponse>`)
				return
			}
			w.WriteHeader(f.Status)
			fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code>`+
				`<Message>%s</Message></Error><RequestId>REQUEST</RequestId></ErrorResponse>`,
				f.Code, f.Message)
		},
		Typed:  typed,
		Unsafe: true,
		Edit:   bed.Idempotent,
		Both:   bed.Attempts * bed.Attempts,
		Varies: []string{"Amz-Sdk-Invocation-Id", "Amz-Sdk-Request", "Authorization", "X-Amz-Date"},
	})
}
